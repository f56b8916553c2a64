#!/usr/bin/env bash
# chart.sh [--check]: write what is made from the chart and for it, or say what is not as it would be written:
# its copies of monitoring/, its README, manifests/, and the renderings in tests/chart/golden.
set -euo pipefail
cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.."

check=no
case ${1:-} in
  '') ;;
  --check) check=yes ;;
  *) echo "usage: scripts/chart.sh [--check]" >&2; exit 2 ;;
esac

helm=$(tests/chart/helm)
to=.
if [ $check = yes ]; then
  to=$(mktemp -d)
  trap 'rm -rf "$to"' EXIT
  mkdir -p "$to"/{charts/rowlock/files,manifests,tests/chart/golden}
fi

cp monitoring/alerts.yaml monitoring/dashboard.json "$to/charts/rowlock/files/"
{ cat charts/rowlock/README.md.in; scripts/chart_values.py charts/rowlock/values.yaml; } >"$to/charts/rowlock/README.md"

# render VALUES ARGUMENT...: as helm install would send it.
render() {
  "$helm" template rowlock charts/rowlock --namespace rowlock --kube-version 1.34 --values "tests/chart/values/$1.yaml" "${@:2}"
}

for values in install demo full; do
  render $values >"$to/tests/chart/golden/$values.yaml"
done
# Plain manifests, in the namespace rowlock: no test, no word of Helm.
for values in install demo; do
  {
    echo "# kubectl create namespace rowlock && kubectl apply -f manifests/$values.yaml   (made from the chart: make chart)"
    [ $values = demo ] || echo '# Between the two: kubectl create secret generic rowlock-database -n rowlock --from-literal=url=postgres://…'
    render $values --skip-tests |
      sed -e '/^ *helm.sh\/chart: /d' -e '/^ *app.kubernetes.io\/managed-by: /d' -e '/^# Source: /d'
  } >"$to/manifests/$values.yaml"
done

[ $check = yes ] || exit 0
rc=0
while read -r file; do
  diff -u "$file" "$to/$file" || { echo "chart: $file is not as generated; run: make chart" >&2; rc=1; }
done < <(cd "$to" && find . -type f | sed 's#^\./##' | sort)
exit $rc
