# fastcifar in a container. The steps are those of scripts/setup.sh.
#
#   docker build --tag fastcifar .
#   docker run --rm --gpus all --volume "$PWD:/work" fastcifar train --recipe speedrun
#
# Without a GPU, leave out --gpus. Data, runs and figures are written to the current folder.
FROM ubuntu:24.04

ENV PIP_NO_CACHE_DIR=1
WORKDIR /fastcifar
# what the installation depends on, so that another change of the code does not repeat it
COPY pyproject.toml requirements.txt README.md LICENSE ./
COPY scripts/setup.sh scripts/
COPY fastcifar/__init__.py fastcifar/version.py fastcifar/
RUN bash scripts/setup.sh requirements.txt && rm -rf /var/lib/apt/lists/*
COPY fastcifar fastcifar

ENV PATH=/fastcifar/.venv/bin:$PATH
WORKDIR /work
ENTRYPOINT ["fastcifar"]
CMD ["--help"]
