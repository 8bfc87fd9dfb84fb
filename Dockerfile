# The collection with a build of torch for CPUs: for Docker, for Binder, and for development containers.
#   docker build -t tp4 . && docker run --rm -p 127.0.0.1:8888:8888 tp4
FROM python:3.12-slim-bookworm

# learn2learn's sources are compiled; git is for development containers.
RUN apt-get update && apt-get install -y --no-install-recommends build-essential git && rm -rf /var/lib/apt/lists/*

# Binder gives the name and the number of its user.
ARG NB_USER=jovyan
ARG NB_UID=1000
RUN useradd --create-home --uid ${NB_UID} ${NB_USER}
ENV HOME=/home/${NB_USER} VIRTUAL_ENV=/home/${NB_USER}/venv
ENV PATH=${VIRTUAL_ENV}/bin:${PATH}
USER ${NB_USER}
WORKDIR ${HOME}/tp4

# First and alone: this layer stays when the project changes, and the step below keeps a build of torch that is there.
RUN python -m venv ${VIRTUAL_ENV} \
 && pip install --no-cache-dir torch torchvision --index-url https://download.pytorch.org/whl/cpu

COPY --chown=${NB_UID} . .
RUN PIP_NO_CACHE_DIR=1 make install VENV=${VIRTUAL_ENV}

EXPOSE 8888
CMD ["jupyter", "lab", "--ip=0.0.0.0", "--port=8888", "--no-browser", "notebooks/00_start_here.ipynb"]
