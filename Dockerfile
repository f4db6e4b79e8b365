# The application in a container, as an ordinary user:
#   docker build -t batik . && docker run --rm -p 7860:7860 batik
FROM python:3.11-slim
# no usage reports: of onnxruntime, of Gradio, of Hugging Face's library
ENV ORT_DISABLE_TELEMETRY=1 GRADIO_ANALYTICS_ENABLED=False HF_HUB_DISABLE_TELEMETRY=1
RUN useradd --create-home --uid 1000 batik
WORKDIR /home/batik
COPY constraints.txt ./
# only what the application needs: no torch
RUN pip install --no-cache-dir gradio onnxruntime numpy pillow tqdm filelock -c constraints.txt
COPY batik_utils/__init__.py batik_utils/
COPY batik_utils/__main__.py batik_utils/
COPY batik_utils/errors.py batik_utils/
COPY batik_utils/images batik_utils/images
COPY batik_utils/app batik_utils/app
COPY results/kaggle/model results/kaggle/model
USER batik
EXPOSE 7860
HEALTHCHECK --interval=30s --start-period=60s CMD ["python", "-c", \
    "import urllib.request; urllib.request.urlopen('http://127.0.0.1:7860/health', timeout=5)"]
CMD ["python", "-m", "batik_utils", "app", "--host", "0.0.0.0"]
