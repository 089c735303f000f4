// socketio-clients.js COUNT URL: socket.io clients, each from an address of its own: long-polling first, then WebSocket,
// as socket.io does by default, and messages over both. Prints what became of them as JSON.
const { Agent } = require('node:http');
const { io } = require('socket.io-client');

const count = Number(process.argv[2]);
const url = process.argv[3];
const result = { connected: 0, upgraded: 0, answered: 0, strayed: 0, errors: [] };

function client(n) {
  return new Promise((done) => {
    // Every poll is a connection of its own.
    const agent = new Agent({ localAddress: `127.2.0.${n}`, keepAlive: false });
    const socket = io(url, { agent, forceNew: true, reconnection: false });
    const fail = (error) => {
      result.errors.push(`${error.message} ${error.context?.responseText ?? ''}`);
      socket.close();
      done();
    };
    const ask = (question) => new Promise((answer) => socket.emit('ask', question, answer));
    const deadline = setTimeout(() => fail(new Error('no end after 30 s')), 30_000);
    socket.on('connect_error', fail);
    socket.on('disconnect', (reason) => reason === 'io client disconnect' || fail(new Error(reason)));
    socket.on('connect', async () => {
      result.connected++;
      const engine = socket.io.engine;
      // The upgrade may be done by now.
      const upgraded = new Promise((yes) => (engine.transport.name === 'websocket' ? yes() : engine.once('upgrade', yes)));
      const pids = new Set();
      for (let i = 0; i < 5; i++) await ask(i).then(({ question, pid }) => question === i && pids.add(pid) && result.answered++);
      await upgraded;
      result.upgraded += engine.transport.name === 'websocket';
      for (let i = 5; i < 10; i++) await ask(i).then(({ question, pid }) => question === i && pids.add(pid) && result.answered++);
      result.strayed += pids.size - 1;
      clearTimeout(deadline);
      socket.close();
      done();
    });
  });
}

Promise.all(Array.from({ length: count }, (_, n) => client(n + 1))).then(() => {
  console.log(JSON.stringify(result));
  process.exit(0);
});
