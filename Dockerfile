FROM python:3.13-slim AS build
COPY . /src
# The versions of requirements.txt, but not its pytest. The geographic data of phonenumbers is left
# out: 38 MB that the service does not use.
RUN python -m venv --without-pip /opt/qyvo-standin \
    && python -m pip --python /opt/qyvo-standin/bin/python install --no-cache-dir \
        --disable-pip-version-check --constraint /src/requirements.txt /src \
    && rm -r /opt/qyvo-standin/lib/python*/site-packages/phonenumbers/geodata

FROM python:3.13-slim
COPY --from=build /opt/qyvo-standin /opt/qyvo-standin
RUN useradd --uid 10001 --home-dir /data --no-create-home --shell /usr/sbin/nologin qyvo \
    && install --directory --owner=qyvo --group=qyvo --mode=0700 /data
# Nothing but /data is ever written, SQLite's temporary files included.
ENV PATH=/opt/qyvo-standin/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    CONTACTS_DATABASE=/data/contacts.db \
    TMPDIR=/data
USER 10001:10001
WORKDIR /data
VOLUME /data
EXPOSE 8000
HEALTHCHECK --interval=10s --timeout=5s --start-period=10s --retries=3 CMD ["python", "-c", "from http.client import HTTPConnection as C; c = C('127.0.0.1', 8000, timeout=4); c.request('GET', '/healthz'); assert c.getresponse().status == 200"]
ENTRYPOINT ["qyvo-standin"]
# A sandbox, since a service of a GitHub Actions job can't say more. `serve --host 0.0.0.0` is a
# deployment.
CMD ["serve", "--sandbox", "--host", "0.0.0.0"]
