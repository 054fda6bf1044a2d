# Fleet Gateway in a container. Three stages: what it needs at run time, the build on top of that, and an image with the results alone.
#
# Debian rather than Alpine: Node publishes and tests its binaries for glibc, those for musl are called experimental; and a gateway looks up
# names all day, which musl's resolver does by rules of its own (search domains, several name servers). The tag is the same in every stage.

FROM node:24-slim AS dependencies
WORKDIR /app
# Nothing else is copied yet, so this layer stays until a dependency changes.
COPY package.json package-lock.json ./
# Scripts off: `prepare` would build, and no dependency needs one. Then away with what Node can't load: it takes no TypeScript from node_modules.
RUN npm ci --omit=dev --ignore-scripts --no-audit --no-fund && \
    find node_modules -type f \( -name '*.ts' -o -name '*.mts' -o -name '*.cts' -o -name '*.map' \) -delete

# On top of the other stage, for what npm has downloaded already.
FROM dependencies AS build
RUN npm ci --ignore-scripts --no-audit --no-fund
COPY tsconfig.json tsconfig.build.json ./
COPY scripts ./scripts
COPY src ./src
COPY plugins ./plugins
RUN npm run -s build && \
    find dist -type f \( -name '*.ts' -o -name '*.map' \) -delete

FROM node:24-slim
LABEL org.opencontainers.image.title="Fleet Gateway" \
      org.opencontainers.image.description="One HTTP front door to a whole fleet of agents: an API gateway of Fastify plugins, as a server or in your own application." \
      org.opencontainers.image.licenses="MIT"
# Both come before what fleet.yaml says of host and port: a container is reached from outside, and EXPOSE and HEALTHCHECK have to know.
ENV NODE_ENV=production \
    FLEET_HOST=0.0.0.0 \
    FLEET_PORT=9001
# fleet.yaml may be mounted as /fleet/fleet.yaml. Registrations and a made-up secret are kept in /fleet/.fleet; a volume there takes over the
# owner and the mode. Whoever `docker run --user` names may write there too, and the gateway's files are for their owner alone.
RUN mkdir -p /fleet/.fleet && \
    chown -R 1000:1000 /fleet && \
    chmod 1777 /fleet/.fleet
WORKDIR /app
COPY --from=dependencies /app/node_modules ./node_modules
COPY --from=build /app/dist ./dist
# With a mode, since a clone made under umask 077 would keep them from everybody but root.
COPY --chmod=644 package.json LICENSE ./
WORKDIR /fleet
VOLUME ["/fleet/.fleet"]
# The image's user `node`, by number: Kubernetes' runAsNonRoot wants to see that it is not 0.
USER 1000:1000
EXPOSE 9001
STOPSIGNAL SIGTERM
# At the address it listens on; 0.0.0.0 and :: are any, and a Host that a gateway without auth would take for foreign. With server.tls it speaks
# HTTPS alone, with a certificate for other names than that address: who it is does not matter to somebody who asks himself.
HEALTHCHECK --interval=10s --timeout=3s --start-period=15s --retries=3 \
  CMD ["node", "-e", "const { FLEET_HOST = '', FLEET_PORT } = process.env; const host = FLEET_HOST.replace(/^(0[.]0[.]0[.]0|::)?$/, '127.0.0.1'); const at = '://' + (host.includes(':') ? '[' + host + ']' : host) + ':' + (FLEET_PORT || 9001) + '/health/live'; process.env.NODE_TLS_REJECT_UNAUTHORIZED = '0'; const ask = scheme => fetch(scheme + at).then(({ ok }) => ok, () => false); ask('http').then(async ok => process.exit(ok || await ask('https') ? 0 : 1))"]
# node itself rather than npm or a shell: as PID 1 it gets the signals, and it starts no processes that somebody would have to reap.
ENTRYPOINT ["node", "/app/dist/src/main.js"]
CMD ["serve"]
