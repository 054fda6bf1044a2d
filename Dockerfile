# Fleet Gateway in a container: built in one stage, run in another without the compiler, the tests or npm's cache.

FROM node:24-slim AS build
WORKDIR /app
COPY package.json package-lock.json ./
# `prepare` would build before there are sources.
RUN npm ci --ignore-scripts --no-audit --no-fund
COPY tsconfig.json tsconfig.build.json ./
COPY src ./src
COPY plugins ./plugins
RUN npm run -s build && npm prune --omit=dev --ignore-scripts --no-audit --no-fund

FROM node:24-slim
ENV NODE_ENV=production \
    FLEET_HOST=0.0.0.0
WORKDIR /app
COPY --from=build /app/package.json ./
COPY --from=build /app/node_modules ./node_modules
COPY --from=build /app/dist ./dist
# A fleet.yaml may be mounted at /fleet/fleet.yaml; registrations and the secret are kept in /fleet/.fleet.
RUN mkdir -p /fleet/.fleet && chown -R node:node /fleet
USER node
WORKDIR /fleet
EXPOSE 9001
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=5s --timeout=3s --start-period=15s --retries=3 \
  CMD ["node", "-e", "fetch('http://127.0.0.1:' + (process.env.FLEET_PORT || 9001) + '/health/live').then(({ ok }) => process.exit(ok ? 0 : 1), () => process.exit(1))"]
# node itself, not npm: signals reach it, and it ends cleanly.
ENTRYPOINT ["node", "/app/dist/src/main.js"]
CMD ["serve"]
