// A node server that tells its process, its worker number and its version, which stands in a file: PORT FILE.
//
// A version may be one that does not start: `exit` ends at once, `deaf` does not listen until the file says something
// else, `unready` answers /ready with 503. /held is answered once the file says something else.
// On SIGTERM it takes no more connections, and ends when the last one has.
const fs = require('node:fs');
const http = require('node:http');
const net = require('node:net');

const [port, file] = process.argv.slice(2);
const read = () => fs.readFileSync(file, 'utf8');
const version = read();
let ending = false;

const changed = (then) => {
  if (read() !== version) return then();
  setTimeout(changed, 20, then);
};

const server = http.createServer((request, response) => {
  const answer = JSON.stringify({ pid: process.pid, worker: process.env.NODE_WORKER_ID, version, peer: request.socket.remoteAddress });
  const status = request.url === '/ready' && version === 'unready' ? 503 : 200;
  const send = () => {
    if (ending) response.setHeader('connection', 'close');
    response.writeHead(status, { 'content-length': Buffer.byteLength(answer) }).end(answer);
  };
  if (request.url === '/held') changed(send);
  else send();
});
server.keepAliveTimeout = 0;

// Not `server.close()`, which also closes connections on which a request may be under way.
process.on('SIGTERM', () => {
  ending = true;
  net.Server.prototype.close.call(server, () => process.exit(0));
});

const listen = () => server.listen(Number(port), () => console.log('listening'));
if (version === 'exit') {
  console.error('no database');
  process.exitCode = 7;
} else if (version === 'deaf') {
  changed(listen);
} else {
  listen();
}
