# The one definition of the product's image. Everyone: `docker build .`; without Docker: `python -m image build`, which runs this same
# file over a Debian base system of its own making.
ARG BASE=python:3.11-slim-bookworm
# The same Python with a C compiler, for the one stage that compiles.
ARG BUILDER=python:3.11-bookworm

FROM ${BASE} AS dependencies
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore PYTHONDONTWRITEBYTECODE=1
RUN python3 -m venv /opt/llmwarden
COPY requirements.lock /src/requirements.lock
# Wheels only: nothing is compiled, and nothing runs while it is installed. Bytecode is made here, because the root file
# system is read-only later and every pod would compile at each start; unchecked, because files in an image never change.
RUN /opt/llmwarden/bin/pip install --quiet --require-hashes --only-binary=:all: --no-compile -r /src/requirements.lock \
    && /opt/llmwarden/bin/pip uninstall --quiet --yes setuptools pip \
    && /opt/llmwarden/bin/python -m compileall -q -j 0 --invalidation-mode unchecked-hash /opt/llmwarden/lib

# botocore, in a directory of its own: only the process that a proxy starts to resolve AWS credentials looks there (proxy/aws/child.py).
# Of its data, 28 MB, it needs what the sources of credentials call.
FROM ${BASE} AS bedrock
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore PYTHONDONTWRITEBYTECODE=1
RUN python3 -m venv /src/venv
COPY requirements-bedrock.lock /src/requirements-bedrock.lock
RUN /src/venv/bin/pip install --quiet --require-hashes --only-binary=:all: --no-compile --target /opt/llmwarden/bedrock -r /src/requirements-bedrock.lock \
    && cd /opt/llmwarden/bedrock && rm -rf bin \
    && find botocore/data -mindepth 1 -maxdepth 1 -type d ! -name sts ! -name sso ! -name sso-oidc ! -name signin -exec rm -rf {} + \
    && /src/venv/bin/python -m compileall -q -j 0 --invalidation-mode unchecked-hash /opt/llmwarden/bedrock

# The proxy's hot modules as extension modules. The compiler stays here; types are read from the packages that the image has. Only what
# compiled code depends on is copied, so that another change does not compile again.
FROM ${BUILDER} AS compiled
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore PYTHONDONTWRITEBYTECODE=1
RUN python3 -m venv /src/venv
COPY requirements-compile.lock /src/requirements-compile.lock
RUN /src/venv/bin/pip install --quiet --require-hashes --only-binary=:all: --no-compile -r /src/requirements-compile.lock
COPY --from=dependencies /opt/llmwarden /opt/llmwarden
COPY image/compile.py /src/compile.py
COPY operator/llmwarden/__init__.py operator/llmwarden/names.py operator/llmwarden/errors.py /src/operator/llmwarden/
COPY operator/llmwarden/contracts /src/operator/llmwarden/contracts
COPY operator/llmwarden/domain/__init__.py operator/llmwarden/domain/cost.py /src/operator/llmwarden/domain/
COPY operator/llmwarden/proxy /src/operator/llmwarden/proxy
RUN COMPILE_PYTHON=/opt/llmwarden/bin/python /src/venv/bin/python -P /src/compile.py /src/operator /compiled

FROM ${BASE}
LABEL org.opencontainers.image.title="llmwarden" org.opencontainers.image.licenses="Apache-2.0"
COPY --from=dependencies /opt/llmwarden /opt/llmwarden
COPY --from=bedrock /opt/llmwarden/bedrock /opt/llmwarden/bedrock
COPY operator/llmwarden /opt/llmwarden/app/llmwarden
# Beside the sources, before which Python finds them; the sources stay for tracebacks.
COPY --from=compiled /compiled /opt/llmwarden/app
RUN /opt/llmwarden/bin/python -m compileall -q --invalidation-mode unchecked-hash /opt/llmwarden/app
# The virtual environment comes first on PATH: `python3` below is its. A name for the user, whatever its number is made (OpenShift):
# kopf asks for one at start, and /etc/passwd has none.
ENV PATH=/opt/llmwarden/bin:/usr/local/bin:/usr/bin:/bin PYTHONPATH=/opt/llmwarden/app PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1 LOGNAME=llmwarden
USER 65532:65532
WORKDIR /opt/llmwarden
ENTRYPOINT ["python3", "-m", "llmwarden"]
