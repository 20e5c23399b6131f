# docker build -t txtransfers .
# docker run -p 8042:8042 -v images:/var/lib/txtransfers -e TXTRANSFERS_USER_HASH='$scrypt$...' txtransfers
# The hash: echo PASSWORD | docker run -i --rm txtransfers password
# All settings: -v ./txtransfers.json:/etc/txtransfers/txtransfers.json:ro. No secret is in the image.

FROM python:3.12-slim-bookworm AS build
COPY . /source
# Wheels alone, and those that were tested: nothing is compiled, so no compiler is needed.
RUN python -m venv /opt/txtransfers \
 && /opt/txtransfers/bin/pip install --no-cache-dir --only-binary :all: --no-binary txtransfers \
        --constraint /source/packaging/constraints.txt /source \
 && PYTHONDONTWRITEBYTECODE=1 /opt/txtransfers/bin/python /source/packaging/cache_plugins.py \
        /opt/txtransfers/lib/python3.12/site-packages

FROM python:3.12-slim-bookworm
RUN groupadd --system --gid 8042 txtransfers \
 && useradd --system --uid 8042 --gid 8042 --home-dir /var/lib/txtransfers --no-create-home txtransfers \
 && install -d -o 8042 -g 8042 -m 700 /var/lib/txtransfers
COPY --from=build /opt/txtransfers /opt/txtransfers
COPY packaging/container/txtransfers.json packaging/container/healthy.py /etc/txtransfers/
ENV PATH=/opt/txtransfers/bin:$PATH PYTHONUNBUFFERED=1
USER 8042:8042
WORKDIR /var/lib/txtransfers
VOLUME /var/lib/txtransfers
EXPOSE 8042
STOPSIGNAL SIGTERM
# A large index of an older release takes minutes until it answers.
HEALTHCHECK --interval=30s --timeout=10s --start-period=5m --retries=3 \
    CMD ["python", "/etc/txtransfers/healthy.py", "/etc/txtransfers/txtransfers.json"]
ENTRYPOINT ["txtransfers"]
CMD ["-c", "/etc/txtransfers/txtransfers.json"]
