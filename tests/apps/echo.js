// An ordinary node server that tells which process it is and what it got. PORT, then the address if not all.
const http = require('node:http');

const [port, address] = process.argv.slice(2);

const server = http.createServer(async (request, response) => {
  let length = 0;
  for await (const chunk of request) length += chunk.length;
  const { httpVersion: version, headers, socket } = request;
  const answer = JSON.stringify({ pid: process.pid, peer: socket.remoteAddress, version, headers, length });
  response.writeHead(200, { 'content-length': Buffer.byteLength(answer) }).end(answer);
});

server.listen(Number(port), address, () => console.log('listening'));
