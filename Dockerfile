# The web chat on a CPU, with the demo model:
#
#   docker build -t glm .
#   docker run --init --rm -p 7860:7860 glm
#   docker run --init --rm -p 7860:7860 -v DIR:/model:ro glm --model /model --quantize int4
FROM python:3.12-slim

# For the native INT4 and INT8 kernel, which is built at its first use into the user's cache.
RUN apt-get update && apt-get install --yes --no-install-recommends g++ && rm -rf /var/lib/apt/lists/*

WORKDIR /app
COPY requirements.txt constraints.txt ./
# PyPI's torch for Linux is the CUDA build, several GB more.
RUN pip install --no-cache-dir --index-url https://download.pytorch.org/whl/cpu "$(grep '^torch==' requirements.txt)" \
    && pip install --no-cache-dir -r requirements.txt
COPY . .

RUN useradd --create-home glm
USER glm
EXPOSE 7860
ENTRYPOINT ["python", "web_demo.py"]
