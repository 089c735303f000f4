// An ordinary socket.io server, as in its documentation.
const { createServer } = require('node:http');
const { Server } = require('socket.io');

const server = createServer();
const io = new Server(server);

io.on('connection', (socket) => {
  socket.on('ask', (question, answer) => answer({ question, pid: process.pid }));
});

server.listen(3000, () => console.log('listening on 3000'));
