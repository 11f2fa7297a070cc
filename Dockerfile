# CPU only.  docker build -t monai_passion .
# docker run --rm --user "$(id -u):$(id -g)" -v "$PWD:/data" monai_passion predict --flair flair.nii.gz --output out
FROM python:3.11-slim-bookworm

ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
ENV PYTHONUNBUFFERED=1 HOME=/tmp MPLCONFIGDIR=/tmp/matplotlib

WORKDIR /opt/monai_passion
COPY . .
RUN pip install --no-cache-dir --index-url "$TORCH_INDEX" "$(grep '^torch==' constraints.txt)"
RUN pip install --no-cache-dir -c constraints.txt ".[phantom]" && monai-passion --version

RUN useradd --uid 1000 --create-home passion
USER 1000
WORKDIR /data
ENTRYPOINT ["monai-passion"]
CMD ["--help"]
