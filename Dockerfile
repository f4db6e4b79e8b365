# The application in a container, as an ordinary user:
#   docker build -t batik . && docker run --rm -p 7860:7860 batik
FROM python:3.11-slim
RUN useradd --create-home --uid 1000 batik
WORKDIR /home/batik
COPY constraints.txt ./
# only what the application needs: no torch
RUN pip install --no-cache-dir gradio onnxruntime numpy pillow tqdm -c constraints.txt
COPY batik_utils batik_utils
COPY results/kaggle/model results/kaggle/model
USER batik
EXPOSE 7860
HEALTHCHECK --interval=30s --start-period=60s CMD ["python", "-c", \
    "import urllib.request; urllib.request.urlopen('http://127.0.0.1:7860/health', timeout=5)"]
CMD ["python", "-m", "batik_utils", "app", "--host", "0.0.0.0"]
