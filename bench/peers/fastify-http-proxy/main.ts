/**
 * @fastify/http-proxy with its defaults. No dependency of the gateway: the bench copies this folder to a temporary one and
 * installs there what its package.json names.
 */

interface FastifyLike {
  register(plugin: unknown, options: Record<string, unknown>): unknown
  listen(options: { port: number; host: string; backlog: number }): Promise<string>
}

// Names in variables: the packages need not be there for the types to be checked.
const names = { fastify: 'fastify', proxy: '@fastify/http-proxy' }
const { default: fastify } = (await import(names.fastify)) as { default: () => FastifyLike }
const { default: proxy } = (await import(names.proxy)) as { default: unknown }

const app = fastify()
app.register(proxy, { upstream: `http://127.0.0.1:${process.env['UPSTREAM_PORT']}` })
await app.listen({ port: Number(process.env['PORT']), host: '127.0.0.1', backlog: 4096 })
