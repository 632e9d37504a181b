# mvkit on a CPU, without FFCV (training reads image folders instead: same views, slower).
#   docker build -t mvkit .
#   docker run --rm -v "$PWD:/data" mvkit score gabor pixels --dataset simulated --areas VISp --splits 1 --halves 2
FROM python:3.11-slim

WORKDIR /opt/mvkit
COPY . .
# torch for CPUs is a quarter of the size of the one for CUDA.
RUN pip install --no-cache-dir --extra-index-url https://download.pytorch.org/whl/cpu --constraint constraints.txt .

ENV MVKIT_HOME=/data/mvkit-home
WORKDIR /data
ENTRYPOINT ["mvkit"]
