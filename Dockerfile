# An image that trains on the CPU (not run: it needs Docker):
#   docker build --tag training . && docker run --rm --volume "$PWD/logs:/work/logs" training trainer.max_epochs=1
FROM python:3.11-slim AS base
RUN apt-get update && apt-get install --yes --no-install-recommends git make && rm -rf /var/lib/apt/lists/*
ENV UV_TORCH_BACKEND=cpu

FROM base
WORKDIR /work
COPY . .
RUN python scripts/install.py .venv && rm -rf /root/.cache
ENTRYPOINT [".venv/bin/python", "src/train.py"]
