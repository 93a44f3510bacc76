// What a Node team would write for the same job: Fastify checks each event against a schema, ioredis sends
// the commands that are due together in one pipeline, and the answer waits for Redis.
// Environment: PORT, REDIS_SOCKET, KEY.

import Fastify from 'fastify';
import { Redis } from 'ioredis';

const { PORT, REDIS_SOCKET, KEY } = process.env;
const STREAM = 'events';
const known = new Set([KEY]);
const redis = new Redis({ path: REDIS_SOCKET, enableAutoPipelining: true });
const server = Fastify({ logger: false, bodyLimit: 8 << 20 });

const eventSchema = {
  type: 'object',
  properties: {
    event_name: { type: 'string', pattern: '^[A-Za-z0-9._-]+$' },
    timestamp: { type: 'string' },
    customer_identifier: { type: 'string' },
  },
  required: ['event_name'],
};

const acceptedSchema = {
  type: 'object',
  properties: { unique_req_id: { type: 'string' }, time_recorded: { type: 'integer' } },
};

const hex = (number) => number.toString(16).padStart(16, '0');
let counter = 0;

const authenticate = (request, reply) => {
  if (known.has(request.headers['x-eventbunker-write-key'])) return true;
  reply.code(401).send({ error: 'unknown write key' });
  return false;
};

server.post('/post', { schema: { body: eventSchema, response: { 200: acceptedSchema } } }, async (request, reply) => {
  if (!authenticate(request, reply)) return reply;
  const time = Date.now();
  const id = hex(time) + hex(counter++);
  await redis.xadd(STREAM, '*', 'id', id, 'time', time, 'event', JSON.stringify(request.body));
  return { unique_req_id: id, time_recorded: time };
});

server.post('/batch', { schema: { body: { type: 'array', items: eventSchema } } }, async (request, reply) => {
  if (!authenticate(request, reply)) return reply;
  const time = Date.now();
  await redis.xadd(STREAM, '*', 'time', time, 'events', JSON.stringify(request.body));
  return { accepted: request.body.length, time_recorded: time };
});

await server.listen({ host: '127.0.0.1', port: Number(PORT) });
