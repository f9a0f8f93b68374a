# Run as a service in a Debian that has booted: the host's package in use. Every command is shown, and must succeed.
trap '{ code=$?; set +x; } 2>/dev/null; echo "ended with $code"; systemctl poweroff --force' EXIT
set -ex

# A service's process, and a word of its state.
pid() { systemctl show --property MainPID --value "$1"; }
is() { [ "$(systemctl show --property "$2" --value "$1")" = "$3" ]; }
fails() { if "$@"; then exit 1; fi; }

dpkg --install /opt/vgpu.deb
is vgpud ActiveState inactive
is vgpud UnitFileState disabled

# On the software GPU, whose processes meet in a folder.
mkdir --mode 1777 /run/softgpu
chmod 1777 /run/softgpu
mkdir /etc/systemd/system/vgpud.service.d /etc/systemd/system/vgpu-backend@.service.d
cat >/etc/systemd/system/vgpud.service.d/softgpu.conf <<END
[Service]
Environment="OPTIONS=--libnvidia-ml /opt/softgpu/libnvidia-ml.so.1" VGPU_SOFTGPU_DIR=/run/softgpu
ReadWritePaths=/run/softgpu
END
cat >/etc/systemd/system/vgpu-backend@.service.d/softgpu.conf <<END
[Service]
Environment="OPTIONS=--libcuda-dir /opt/softgpu --exec-env VGPU_SOFTGPU_DIR=/run/softgpu"
ReadWritePaths=/run/softgpu
END
systemctl daemon-reload

systemctl enable --now vgpud
vgpu-admin assign-gpu --gpu-id 0 --pool A
vgpu-admin register-vm --vm-id 3-4 --pool A
systemctl enable --now vgpu-backend@3 vgpu-backend@4 vgpu-panel
for unit in vgpud vgpu-backend@3 vgpu-backend@4 vgpu-panel; do
    is $unit ActiveState active
    systemctl status --no-pager --full $unit
done
vgpu-admin status
ls -lR /run/vgpu

# Each has a user of its own.
for unit in vgpud vgpu-backend@3 vgpu-backend@4 vgpu-panel; do
    stat --format %u "/proc/$(pid $unit)"
done >/run/users
[ "$(sort --unique /run/users | wc --lines)" = 4 ]
fails grep --line-regexp 0 /run/users

# Who is in the group reaches a VM's GPU, and nobody else does.
useradd --system --groups vgpu-qemu member
useradd --system other
vadd="env VGPU_SOCKET=/run/vgpu/vm3/vgpu.sock LD_LIBRARY_PATH=/opt/guest /opt/vadd"
runuser -u member -- $vadd
fails runuser -u other -- $vadd
fails runuser -u other -- vgpu-admin status
fails runuser -u member -- vgpu-admin status

is vgpu-panel StatusText 'listening at http://127.0.0.1:8460/'
bash -c 'exec 3<>/dev/tcp/127.0.0.1/8460; printf "GET /healthz HTTP/1.0\r\nHost: localhost\r\n\r\n" >&3; grep ok <&3'

# A map that is wrong is refused, in words to who asks, and gravely in the journal where nobody does.
systemctl reload vgpud
cp /etc/vgpu/pools.toml /run/pools.toml
echo nonsense >>/etc/vgpu/pools.toml
fails systemctl reload vgpud
systemctl kill --kill-whom main --signal HUP vgpud
until journalctl --no-pager --unit vgpud --priority err | grep 'pool map stays'; do sleep 1; done
# It does not start with one, and is not started again and again.
systemctl stop vgpud
fails systemctl start vgpud
is vgpud SubState failed
is vgpud NRestarts 0
is vgpud ExecMainStatus 78
cp /run/pools.toml /etc/vgpu/pools.toml
systemctl start vgpud

# It may read the kernel's log, and no VM's executors see what others share.
fails sh -c "journalctl --no-pager --unit vgpud | grep kmsg"
for vm in 3 4; do
    nsenter --mount --target "$(pid vgpu-backend@$vm)" touch /dev/shm/of-vm$vm
done
[ -z "$(ls /dev/shm/of-vm*)" ]
nsenter --mount --target "$(pid vgpu-backend@3)" ls /dev/shm | grep --line-regexp of-vm3

# One that hangs is replaced, and backends find the new one.
mkdir /run/systemd/system/vgpud.service.d
printf '[Service]\nWatchdogSec=10\n' >/run/systemd/system/vgpud.service.d/hang.conf
systemctl daemon-reload
systemctl restart vgpud
kill -STOP "$(pid vgpud)"
until is vgpud NRestarts 1 && is vgpud ActiveState active; do sleep 1; done
runuser -u member -- $vadd

# As libvirt does it: a VM's backend comes with its domain, for no other domain, and goes with it. Why it does not come is said.
hook() { /etc/libvirt/hooks/qemu.d/vgpu "$@" - <"$domain"; }
domain=/run/domain.xml
vgpu-admin domain-xml --vm-id 5 | sed 's|</domain>|<uuid>1f0c</uuid></domain>|' >$domain
sed 's|1f0c|2e1d|' $domain >/run/copy.xml
hook five prepare begin
hook five start begin
is vgpu-backend@5 ActiveState active
[ -S /run/vgpu/vm5/vgpu.sock ]
domain=/run/copy.xml
fails hook copy prepare begin 2>/run/why
grep 'VM 5 is another domain: 1f0c five' /run/why
hook copy release end
is vgpu-backend@5 ActiveState active
domain=/run/domain.xml
hook five release end
is vgpu-backend@5 ActiveState inactive
mkdir /run/systemd/system/vgpu-backend@5.service.d
printf '[Service]\nEnvironment="OPTIONS=--libcuda-dir /nowhere"\n' >/run/systemd/system/vgpu-backend@5.service.d/z.conf
systemctl daemon-reload
# What the backend said may not be in the journal yet.
until fails hook five prepare begin 2>/run/why && grep /nowhere /run/why; do sleep 1; done
grep 'vgpu-backend@5.service does not start: ' /run/why
is vgpu-backend@5 ActiveState inactive
[ -z "$(ls /run/vgpu-libvirt)" ]

systemctl stop vgpu-backend@4
[ ! -e /run/vgpu/vm4 ]
runuser -u member -- $vadd

dpkg --install /opt/vgpu.deb
is vgpu-backend@3 ActiveState active
is vgpud ActiveState active

dpkg --purge vgpu
[ -z "$(pidof vgpud vgpu-backend vgpu-panel vgpu-exec)" ]
[ -z "$(ls -d /etc/vgpu /run/vgpu* /var/lib/vgpu /etc/libvirt /etc/systemd/system/*/vgpu*.service)" ]
