// An ordinary node server, as in anybody's tutorial.
const http = require('node:http');

const server = http.createServer((request, response) => {
  if (request.url === '/pid') return response.end(String(process.pid));
  response.end('worker: ' + process.env.NODE_WORKER_ID);
});

server.listen(3000, () => console.log('listening on 3000'));
