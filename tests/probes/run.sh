#!/bin/sh
# SPDX-License-Identifier: Apache-2.0 OR MIT
# Builds the probes, runs them one after another and prints one table of all results last.
# Usage: run.sh [probe...]       (default: all of them)
#   CUDA_HOME     the CUDA toolkit, for cuda.h and the libcuda to link with (/usr/local/cuda)
#   OUT           where table.txt, results.tsv and log.txt go (a new folder in /tmp)
#   IOCTL_EXPORT  the Rust probe's program (target/release/probe-ioctl-export)
#   SECONDS_IN_ALL  no probe is started or kept running after this long (175)
set -u
here=$(cd "$(dirname "$0")" && pwd)
cuda=${CUDA_HOME:-/usr/local/cuda}
out=${OUT:-$(mktemp -d /tmp/probes.XXXXXX)}
rust=${IOCTL_EXPORT:-$here/../../target/release/probe-ioctl-export}
all="ioctl-export costs confine scattered checkpoint stopped repeated pinned"
end=$(($(date +%s) + ${SECONDS_IN_ALL:-175}))
build=$(mktemp -d /tmp/probes-build.XXXXXX)
trap 'rm -rf "$build"' EXIT
mkdir -p "$out"
: >"$out/results.tsv"
: >"$out/log.txt"

for probe in ${*:-$all}; do
	program=$build/$probe
	case $probe in
	ioctl-export) program=$rust more= ;;
	stopped | repeated) more="$here/rm.c -rdynamic" ;;
	*) more= ;;
	esac
	if [ "$probe" != ioctl-export ]; then
		# $more is a list
		# shellcheck disable=SC2086
		gcc -O2 -Wall -Wextra -D_GNU_SOURCE -I"$cuda/include" -o "$program" "$here/$probe.c" "$here/common.c" \
			$more -L"$cuda/lib64/stubs" -lcuda -lpthread -ldl >>"$out/log.txt" 2>&1
	fi
	left=$((end - $(date +%s)))
	if [ ! -x "$program" ]; then
		printf '%s\t-\t!! NOT BUILT\t%s\n' "$probe" "$(tail -n 1 "$out/log.txt")" >>"$out/results.tsv"
	elif [ "$left" -lt 5 ]; then
		printf '%s\t-\t!! NOT RUN\tno time left\n' "$probe" >>"$out/results.tsv"
	else
		echo "$probe (at most $left s)"
		start=$(date +%s)
		timeout -k 5 "$left" "$program" >"$build/output" 2>>"$out/log.txt"
		status=$?
		# a result has four fields; anything else a library printed goes to the log
		awk -F '\t' -v log_file="$out/log.txt" 'NF == 4 { print; next } { print >> log_file }' "$build/output" >>"$out/results.tsv"
		[ $status -eq 0 ] || printf '%s\t-\t!! ENDED WITH STATUS\t%s\n' "$probe" $status >>"$out/results.tsv"
		echo "  $(($(date +%s) - start)) s"
	fi
done

[ -s "$out/log.txt" ] && { echo "--- log (last lines)"; tail -n 15 "$out/log.txt"; }
{
	echo "$(uname -sr); driver $(cat /sys/module/nvidia/version 2>/dev/null || echo unknown); $(nproc) CPUs; max_map_count $(cat /proc/sys/vm/max_map_count 2>/dev/null || echo unknown); uid $(id -u)"
	awk -F '\t' 'NR == FNR { rows[$1, $2]++; next }
	$1 != probe { probe = $1; print "[" probe "]" }
	rows[$1, $2] == 1 { printf "%s: %s: %s\n", $2, $3, $4; next }
	$2 != group { group = $2; print group }
	{ printf "  %s: %s\n", $3, $4 }' "$out/results.tsv" "$out/results.tsv"
} >"$out/table.txt"
echo "--- results (also in $out: table.txt, results.tsv, log.txt)"
cat "$out/table.txt"
