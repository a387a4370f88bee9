#!/usr/bin/env bash
# Makes a 64-bit ARM Python with fastce's needs in a folder: arm64.sh FOLDER. FOLDER/python runs it under emulation.
#
# It takes Debian's packages and this machine's emulator; the machine's own packages stay as they are: apt is given a
# state of its own, in which nothing is installed.
set -euo pipefail
folder=$(mkdir -p "$1" && cd "$1" && pwd)
sources=$(cd "$(dirname "$0")/.." && pwd)

if ! command -v qemu-aarch64-static > /dev/null; then
    echo "qemu-aarch64-static is missing: apt-get install qemu-user-static" >&2
    exit 1
fi
if ! command -v apt-get > /dev/null || ! command -v dpkg > /dev/null; then
    echo "apt-get and dpkg are missing: the ARM Python is unpacked from Debian's packages" >&2
    exit 1
fi

apt=$folder/apt
mkdir -p "$apt/lists/partial" "$apt/archives/partial" "$folder/root"
touch "$apt/status"
options=(-qq -o APT::Architecture=arm64 -o APT::Architectures=arm64 -o APT::Sandbox::User=root
    -o Dir::State::lists="$apt/lists" -o Dir::State::status="$apt/status" -o Dir::State::extended_states="$apt/extended"
    -o Dir::Cache="$apt" -o Dir::Cache::archives="$apt/archives")
apt-get "${options[@]}" update
version=$(apt-cache "${options[@]}" show python3 | sed -n 's/^Version: \(3\.[0-9]*\).*/\1/p' | head -1)
apt-get "${options[@]}" install --yes --download-only --no-install-recommends \
    "python$version-minimal" "libpython$version-stdlib" libgcc-s1 libgomp1 libstdc++6
for package in "$apt"/archives/*.deb; do
    dpkg --extract "$package" "$folder/root"
done
rm -rf "$apt"

platforms=()
for glibc in 2014 _2_17 _2_24 _2_27 _2_28; do
    platforms+=(--platform "manylinux${glibc}_aarch64")
done
"${PYTHON:-python3}" -m pip install --quiet --disable-pip-version-check --no-warn-conflicts --root-user-action=ignore --upgrade --target "$folder/site" --only-binary=:all: \
    --implementation cp --python-version "$version" "${platforms[@]}" \
    "numpy>=2.0" "numba>=0.62" "ml_dtypes>=0.4" "pytest>=8.2" "hypothesis>=6.100" "mpmath>=1.3"

# it is started through itself, so that Python's children are emulated too
cat > "$folder/python" << END
#!/bin/sh
export PYTHONHOME="$folder/root/usr" PYTHONPATH="$folder/site:$sources" PYTHONDONTWRITEBYTECODE=1
export NUMBA_CACHE_DIR="\${NUMBA_CACHE_DIR:-$folder/cache}"
exec qemu-aarch64-static -L "$folder/root" -0 "$folder/python" "$folder/root/usr/bin/python$version" "\$@"
END
chmod +x "$folder/python"
"$folder/python" -c "import platform, numba, numpy; print('Python', platform.python_version(), platform.machine(), 'numba', numba.__version__, 'numpy', numpy.__version__)"
