# Debian's packages, for scripts that need them. To be sourced by bash.

may_install() { [ "$(id -u)" -eq 0 ] && command -v apt-get >/dev/null; }

# install_packages PACKAGE...: what goes wrong with a download or a lock that another process has is tried again.
install_packages() {
    local patience=(-o Acquire::Retries=5 -o DPkg::Lock::Timeout=300)
    apt-get update -qq "${patience[@]}" >&2
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${patience[@]}" "$@" >&2
}
