# The first process of a cluster's namespaces: makes the network, says its number, and waits for its owner.
# When it ends, the kernel kills every process in here, and all mounts and links vanish.
#
# usage: init.sh NODES, in `unshare --net --mount --pid --fork`
set -eu
nodes="$1"
exec 3<&0

# /proc is still the machine's: it shows this process's number there.
read -r pid _ </proc/self/stat
mount --make-rshared /
mount -t proc proc /proc
# What programs write outside of their own folders goes into memory: /run is empty, the others show what the machine has.
mount -t tmpfs tmpfs /run
mkdir -p /run/netns
for folder in lib log; do
    mkdir -p "/run/over/$folder" "/run/over/$folder.work"
    mount -t overlay overlay -o "lowerdir=/var/$folder,upperdir=/run/over/$folder,workdir=/run/over/$folder.work" "/var/$folder" ||
        mount -t tmpfs tmpfs "/var/$folder"
done

# One bridge, on it the control plane and a link to each node.
control=10.99.0.254
ip link set lo up
ip link add br0 type bridge
ip addr add "$control/24" dev br0
ip link set br0 up
echo 1 >/proc/sys/net/ipv4/ip_forward
node=1
while [ "$node" -le "$nodes" ]; do
    ip netns add "node$node"
    ip link add "veth$node" type veth peer name eth0 netns "node$node"
    ip link set "veth$node" master br0 up
    ip -n "node$node" link set lo up
    ip -n "node$node" addr add "10.99.0.$node/24" dev eth0
    ip -n "node$node" link set eth0 up
    ip -n "node$node" route add default via "$control"
    # `ip netns exec` would mount /sys again.
    nsenter --net="/run/netns/node$node" sh -c 'echo 1 >/proc/sys/net/ipv4/ip_forward'
    ip route add "10.244.$node.0/24" via "10.99.0.$node"
    other=1
    while [ "$other" -le "$nodes" ]; do
        [ "$other" = "$node" ] || ip -n "node$node" route add "10.244.$other.0/24" via "10.99.0.$other"
        other=$((other + 1))
    done
    node=$((node + 1))
done
ip route add 10.96.0.0/16 via 10.99.0.1

echo "$pid"
# `wait` also buries the orphans that end up here.
cat <&3 >/dev/null &
wait $!
