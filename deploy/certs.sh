#!/bin/bash
# Makes a certificate authority of one's own and a certificate for each role, with the openssl command.
#
#   deploy/certs.sh DIR [--host NAME]... [--days N] [--renew] [ROLE[:NAME]...]
#
#   DIR      ca.crt, ca.key, and ROLE.crt and ROLE.key (or NAME.crt and NAME.key) of each role. Keys are readable by
#            their owner only; ca.key is needed for new certificates alone: keep it elsewhere
#   --host   a further name or address of the daemons (localhost, 127.0.0.1 and ::1 are there always), repeatable
#   --days   how long certificates are good (default 365; the CA ten years)
#   --renew  new keys and certificates by the CA that is there. Daemons take them up without a restart
#   ROLE     admin, user, client, viewer, worker, coordinator, packager, server (default: all of them). NAME is who it is,
#            as jobs and logs show it; default: the role
#
# Without --renew what is there stays, so running it again adds what is missing.
set -euo pipefail

die() { echo "certs.sh: $*" >&2; exit 1; }
usage() { sed -n '2,/^set/s/^# \{0,1\}//p' "$0" | sed '$d' >&2; exit 2; }

dir=
days=365
renew=
names=(DNS:localhost IP:127.0.0.1 IP:::1)
wanted=()
while [ $# -gt 0 ]; do
  case $1 in
    --host)
      [ $# -ge 2 ] || usage
      if [[ $2 =~ ^[0-9.]+$ || $2 == *:* ]]; then names+=("IP:$2"); else names+=("DNS:$2"); fi
      [[ $2 =~ ^[A-Za-z0-9.:*-]+$ ]] || die "--host $2: expected a host name or an address"
      shift ;;
    --days)
      [ $# -ge 2 ] || usage
      [[ $2 =~ ^[1-9][0-9]{0,4}$ ]] || die "--days $2: expected a number of days"
      days=$2
      shift ;;
    --renew) renew=1 ;;
    -*) usage ;;
    *) if [ -z "$dir" ]; then dir=$1; else wanted+=("$1"); fi ;;
  esac
  shift
done
[ -n "$dir" ] || usage
command -v openssl >/dev/null || die "the command openssl is not here (Debian: apt-get install openssl)"
[ ${#wanted[@]} -gt 0 ] || wanted=(admin user client viewer worker coordinator packager server)

umask 077
mkdir -p "$dir"
chmod 755 "$dir"

if [ ! -e "$dir/ca.crt" ]; then
  openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -noenc -days 3650 -subj "/O=shiftadd/CN=shiftadd CA" \
    -addext basicConstraints=critical,CA:TRUE,pathlen:0 -addext keyUsage=critical,keyCertSign,cRLSign \
    -keyout "$dir/ca.key" -out "$dir/ca.crt" 2>/dev/null || die "openssl could not make $dir/ca.crt"
  chmod 644 "$dir/ca.crt"
fi
[ -r "$dir/ca.key" ] || die "$dir/ca.key cannot be read: it signs new certificates"

hosts=$(IFS=,; echo "${names[*]}")
for who in "${wanted[@]}"; do
  role=${who%%:*}
  name=${who#*:}
  case $role in
    admin | user | client | viewer | worker | coordinator | packager | server) ;;
    *) die "$who: expected a role of admin, user, client, viewer, worker, coordinator, packager, server" ;;
  esac
  [[ $name =~ ^[A-Za-z0-9._@-]{1,64}$ ]] || die "$who: expected a name of up to 64 letters, digits, '.', '_', '-', '@'"
  [ "$name" != ca ] || die "$who: the name ca is the authority's"
  if [ -z "$renew" ] && [ -e "$dir/$name.crt" ]; then continue; fi
  openssl req -new -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -noenc -subj "/O=shiftadd/OU=$role/CN=$name" \
    -keyout "$dir/$name.key.new" -out "$dir/$name.csr" 2>/dev/null || die "openssl could not make a key for $who"
  openssl x509 -req -in "$dir/$name.csr" -CA "$dir/ca.crt" -CAkey "$dir/ca.key" -days "$days" -out "$dir/$name.crt.new" \
    -set_serial "0x$(openssl rand -hex 16)" -extfile <(printf '%s\n' "subjectAltName=$hosts,URI:spiffe://shiftadd/$role/$name" \
      basicConstraints=CA:FALSE keyUsage=digitalSignature extendedKeyUsage=serverAuth,clientAuth) 2>/dev/null ||
    die "openssl could not sign the certificate of $who"
  rm "$dir/$name.csr"
  chmod 644 "$dir/$name.crt.new"
  mv "$dir/$name.key.new" "$dir/$name.key"
  mv "$dir/$name.crt.new" "$dir/$name.crt"
done
echo "certificates in $dir: ${wanted[*]}"
