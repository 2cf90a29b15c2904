# syntax=docker/dockerfile:1
#
# The gateway, and nothing of what builds it. Runs as a user without rights on a read-only root:
#   docker build -t fluxor-gateway .
#   docker run --read-only --cap-drop ALL --security-opt no-new-privileges -p 8080:8080 \
#     -v ./gateway.yaml:/etc/fluxor/gateway.yaml:ro fluxor-gateway
# test/package/dockerfile.test.ts runs the same steps without an engine.

FROM node:24-slim AS build
WORKDIR /build
COPY package.json package-lock.json ./
# The scripts of this repository bring a Node of their own for machines with an older one; the image has the right one.
RUN --mount=type=cache,target=/root/.npm npm ci --ignore-scripts --no-audit --no-fund
COPY . .
RUN node scripts/build.ts && npm pack --ignore-scripts --pack-destination /pack

FROM node:24-slim AS install
WORKDIR /app
# The locked versions, and none of the development dependencies.
COPY package.json package-lock.json ./
RUN --mount=type=cache,target=/root/.npm npm ci --omit=dev --ignore-scripts --no-audit --no-fund
COPY --from=build /pack/*.tgz /tmp/package.tgz
RUN tar -xzf /tmp/package.tgz --strip-components=1 && rm package-lock.json

FROM node:24-slim
ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="Fluxor Gateway" \
      org.opencontainers.image.description="A reverse proxy and API gateway that keeps the service behind it alive under any load." \
      org.opencontainers.image.licenses="MIT" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.base.name="docker.io/library/node:24-slim"
ENV NODE_ENV=production
# Nothing installs anything here any more.
RUN rm -rf /usr/local/lib/node_modules /usr/local/bin/npm /usr/local/bin/npx /usr/local/bin/corepack /opt/yarn*
COPY --from=install /app /app
COPY --from=install /app/gateway.yaml /etc/fluxor/gateway.yaml
# By number: `runAsNonRoot` of Kubernetes cannot look a name up.
USER 10001:10001
WORKDIR /etc/fluxor
EXPOSE 8080 9902
STOPSIGNAL SIGTERM
# Exec form: there is no shell to ask. It reads the address of the admin listener from the same config.
HEALTHCHECK --interval=10s --timeout=3s --start-period=5s --retries=3 \
  CMD ["node", "/app/dist/main.js", "healthcheck", "-c", "/etc/fluxor/gateway.yaml"]
# Reading is all it may do: no writing, no child processes. Threads are its own, and bound by the same rules; Node warns of
# them all the same.
ENTRYPOINT ["node", "--permission", "--allow-fs-read=*", "--allow-worker", "--disable-warning=PERM0006", "/app/dist/main.js"]
CMD ["run", "-c", "/etc/fluxor/gateway.yaml"]
