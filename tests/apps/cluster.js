// Node's own cluster: the primary listens, and hands connections to its workers.
const cluster = require('node:cluster');

if (cluster.isPrimary) {
  let listening = 0;
  cluster.on('listening', () => ++listening === 2 && console.log('up'));
  cluster.fork();
  cluster.fork();
} else {
  require('node:http').createServer((request, response) => response.end('hello')).listen(3000);
}
