#!/usr/bin/env bash
# Install the Debian packages that some checks use; without them those checks are skipped.
#   g++        compiles generated HLS (csim)
#   chromium   takes a picture of the report page
#   iverilog   simulates generated Verilog without a build (rtl)
#   verilator  simulates generated Verilog of large arrays
#   yosys      synthesises generated Verilog (synth)
set -euo pipefail
packages=(g++ chromium iverilog verilator yosys)
missing=()
for package in "${packages[@]}"; do
  dpkg-query --show --showformat='${Status}' "$package" 2>/dev/null | grep -q 'ok installed' || missing+=("$package")
done
[ "${#missing[@]}" -eq 0 ] && exit 0
[ "$(id -u)" -eq 0 ] || { echo "run as root to install: ${missing[*]}" >&2; exit 1; }
apt-get update -qq
DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}"
