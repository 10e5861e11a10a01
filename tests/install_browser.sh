#!/bin/sh
# Installs what the browser tests need, Chromium and a Chinese font, from Debian's packages, where that can be done
# without asking anybody. Never fails: without a browser those tests are skipped and say why.

skip() {
    echo "install_browser: $1; the browser tests will be skipped if no Chromium is found." >&2
    exit 0
}

packages=""
command -v chromium-headless-shell >/dev/null 2>&1 || command -v chromium >/dev/null 2>&1 || packages="chromium"
[ -n "$(fc-list :lang=zh 2>/dev/null)" ] || packages="$packages fonts-noto-cjk fontconfig"
[ -n "$packages" ] || exit 0

command -v apt-get >/dev/null 2>&1 || skip "no apt-get here to install$packages"
if [ "$(id -u)" = 0 ]; then
    as_root=""
elif sudo -n true 2>/dev/null; then
    as_root="sudo -n"
else
    skip "installing $packages needs root"
fi

# A machine without a network must not hang here for apt's default of several minutes.
apt="$as_root env DEBIAN_FRONTEND=noninteractive timeout 600 apt-get -qq -o Acquire::Retries=1 -o Acquire::http::Timeout=20"
echo "install_browser: installing $packages"
$apt update || skip "apt-get update failed"
# Chromium without windows is smaller and quicker, but not every release has it as a package.
if apt-cache show chromium-headless-shell >/dev/null 2>&1; then
    packages=$(echo "$packages" | sed 's/^chromium/chromium-headless-shell/')
fi
# shellcheck disable=SC2086  # one word per package is meant
$apt install -y --no-install-recommends $packages >/dev/null || skip "apt-get could not install $packages"
