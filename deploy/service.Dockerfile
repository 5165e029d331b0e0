# API and migrations: no torch. Build from the repository's root:
#   docker build -f deploy/service.Dockerfile -t sdft-service .
FROM python:3.12-slim AS build
WORKDIR /src
COPY . .
RUN python -m venv /opt/sdft \
    && /opt/sdft/bin/pip install --no-cache-dir -c constraints.txt .

FROM python:3.12-slim
COPY --from=build /opt/sdft /opt/sdft
ENV PATH=/opt/sdft/bin:$PATH PYTHONUNBUFFERED=1
RUN useradd --uid 10001 --create-home sdft && install -d -o sdft -g sdft /data
USER sdft
WORKDIR /home/sdft
EXPOSE 8000
CMD ["uvicorn", "--factory", "app.main:create_app", "--no-access-log", "--host=0.0.0.0", "--port=8000"]
