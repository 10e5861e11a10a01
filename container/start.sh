#!/bin/sh
# Starts what the container is asked for, as process 1:
#
#   docker run glm                                the web chat
#   docker run glm --model /model                 the web chat with these flags
#   docker run -it glm cli_demo.py --model /model another program of the checkout
#   docker run glm torchrun ...                   any command

# The kernel ends a container that needs more memory than it may have without a word, with status 137. Importing the
# libraries alone takes 0.4 GB.
least=$((512 * 1024 * 1024))
limit=$(cat /sys/fs/cgroup/memory.max /sys/fs/cgroup/memory/memory.limit_in_bytes 2>/dev/null | head -n 1)
if [ "${limit:-max}" != max ] && [ "$limit" -lt "$least" ]; then
    echo "This container may use $((limit / 1024 / 1024)) MB of memory, too little to load the libraries. If it ends with" \
        "status 137, raise --memory: the demo model needs 1 GB, a checkpoint about the size of its files more." >&2
fi

case "${1:--}" in
    -*) exec python3 /app/web_demo.py "$@" ;;
    *_demo.py) exec python3 /app/"$@" ;;
    *) exec "$@" ;;
esac
