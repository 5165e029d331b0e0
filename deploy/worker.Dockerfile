# Worker and operator commands, with torch, whose usual Linux wheel brings its own CUDA libraries. Build from the
# repository's root. A machine without a GPU takes a smaller image: --build-arg TORCH_INDEX=<torch's CPU wheel index>
# With lm-evaluation-harness: --build-arg EXTRAS=worker,lm-eval
FROM python:3.12-slim AS build
ARG TORCH_INDEX=
ARG EXTRAS=worker
# A compiler for what decodes on a CPU (worker/hf/token_pass.c); it stays behind with this stage.
RUN apt-get update && apt-get install --yes --no-install-recommends gcc libc6-dev && rm -rf /var/lib/apt/lists/*
WORKDIR /src
# By itself, so that a change of our code does not download it again.
COPY constraints.txt .
RUN python -m venv /opt/sdft \
    && /opt/sdft/bin/pip install --no-cache-dir -c constraints.txt ${TORCH_INDEX:+--index-url $TORCH_INDEX} torch
COPY . .
RUN /opt/sdft/bin/pip install --no-cache-dir -c constraints.txt ".[$EXTRAS]"

FROM python:3.12-slim
COPY --from=build /opt/sdft /opt/sdft
ENV PATH=/opt/sdft/bin:$PATH PYTHONUNBUFFERED=1 OMP_WAIT_POLICY=passive GOMP_SPINCOUNT=0
RUN useradd --uid 10001 --create-home sdft && install -d -o sdft -g sdft /data /work
USER sdft
WORKDIR /home/sdft
CMD ["celery", "-A", "worker.celery_app", "worker", "--concurrency=1", "--loglevel=INFO"]
