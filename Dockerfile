# unbackdoor in a container. It asks for no network when it runs, and sends nothing anywhere.
#
#   docker build -t unbackdoor:cuda .
#   docker build -t unbackdoor:cpu --build-arg TORCH_INDEX=ADDRESS .    # ADDRESS: of PyTorch's CPU builds
#   docker run --rm -v "$PWD:/data" unbackdoor:cpu vet local-dir:/data/suspect --data folder:/data/pictures --out /data/vetted
#
# The package index has PyTorch with CUDA for x86-64; `docker run --gpus all` hands it the GPU. The address of the smaller
# CPU builds is named on PyTorch's own page.
ARG PYTHON=3.11

FROM python:${PYTHON}-slim AS build
WORKDIR /source
COPY pyproject.toml README.md LICENSE ./
COPY src ./src
RUN python -m pip wheel --no-cache-dir --no-deps --wheel-dir /wheels .

FROM python:${PYTHON}-slim
ARG TORCH_INDEX=""
ARG EXTRAS="hf"
COPY constraints.txt /tmp/constraints.txt
COPY --from=build /wheels /wheels
# The version of torch is that of the constraints, whichever index it comes from.
RUN if [ -n "${TORCH_INDEX}" ]; then \
        python -m pip install --no-cache-dir -c /tmp/constraints.txt --index-url "${TORCH_INDEX}" torch torchvision; \
    fi \
    && python -m pip install --no-cache-dir -c /tmp/constraints.txt "$(echo /wheels/*.whl)[${EXTRAS}]" \
    && rm -r /wheels /tmp/constraints.txt \
    && useradd --create-home --uid 10001 unbackdoor
ENV HF_HUB_OFFLINE=1
USER 10001
WORKDIR /data
ENTRYPOINT ["unbackdoor"]
CMD ["--help"]
