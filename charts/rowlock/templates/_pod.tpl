{{/* What all Pods have, and what is given for the Pods of one component. Argument: [root, the component's values] */}}
{{- define "rowlock.pod" -}}
{{- $root := index . 0 -}}
{{- $values := index . 1 -}}
{{- with $root.Values.imagePullSecrets }}
imagePullSecrets:
  {{- toYaml . | nindent 2 }}
{{- end }}
enableServiceLinks: false
securityContext:
  {{- toYaml (merge (deepCopy (default dict $values.podSecurityContext)) $root.Values.podSecurityContext) | nindent 2 }}
{{- range $key := list "nodeSelector" "tolerations" "affinity" "priorityClassName" "runtimeClassName" "schedulerName" "dnsPolicy" "dnsConfig" "hostAliases" }}
{{- with get $values $key }}
{{ $key }}: {{ toYaml . | nindent 2 }}
{{- end }}
{{- end }}
{{- end }}

{{/* How a Deployment is rolled out. 0 is a value, too. Argument: the component's values */}}
{{- define "rowlock.rollout" -}}
{{- range $key := list "revisionHistoryLimit" "minReadySeconds" "progressDeadlineSeconds" "strategy" }}
{{- $value := get $ $key }}
{{- if kindIs "map" $value }}
{{- with $value }}
{{ $key }}:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- else if and (hasKey $ $key) (not (kindIs "invalid" $value)) }}
{{ $key }}: {{ int $value }}
{{- end }}
{{- end }}
{{- end }}

{{/* A container of the release's image, to its environment. Argument: [root, name, the component's values] */}}
{{- define "rowlock.container" -}}
{{- $root := index . 0 -}}
name: {{ index . 1 }}
image: {{ include "rowlock.image" $root }}
imagePullPolicy: {{ $root.Values.image.pullPolicy }}
securityContext:
  {{- include "rowlock.container.security" (list $root (index . 2)) | nindent 2 }}
{{- end }}
{{- define "rowlock.container.security" -}}
{{ toYaml (merge (deepCopy (default dict (index . 1).securityContext)) (index . 0).Values.securityContext) }}
{{- end }}

{{/* Port, probes and lifecycle. Argument: the component's values */}}
{{- define "rowlock.probes" -}}
ports:
  - {name: http, containerPort: 9464}
livenessProbe:
  {{- toYaml (default (dict "httpGet" (dict "path" "/livez" "port" "http") "periodSeconds" 10 "timeoutSeconds" 5 "failureThreshold" 6) .livenessProbe) | nindent 2 }}
readinessProbe:
  {{- toYaml (default (dict "httpGet" (dict "path" "/readyz" "port" "http") "periodSeconds" 5 "timeoutSeconds" 5) .readinessProbe) | nindent 2 }}
{{- range $key := list "startupProbe" "lifecycle" }}
{{- with get $ $key }}
{{ $key }}:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}
{{- end }}

{{/* In the demo: wait for what a Pod needs of the database. Argument: [root, an SQL statement that answers t then] */}}
{{- define "rowlock.demo.wait" -}}
{{- $root := index . 0 -}}
{{- with $root.Values.demo.postgres -}}
name: wait
image: {{ .image }}
imagePullPolicy: {{ .pullPolicy }}
command:
  - sh
  - -c
  - for i in $(seq 600); do [ "$(psql -qtAX -c "{{ index $ 1 }}" 2>/dev/null)" = t ] && exit; sleep 0.1; done; echo "no demo database within 60 s" >&2; exit 1
env:
  - {name: PGHOST, value: {{ include "rowlock.fullname" $root }}-demo-postgres}
  - {name: PGUSER, value: rowlock}
  - {name: PGDATABASE, value: rowlock}
  - name: PGPASSWORD
    valueFrom: {secretKeyRef: {name: {{ include "rowlock.secret" $root }}, key: password}}
securityContext:
  {{- toYaml $root.Values.securityContext | nindent 2 }}
resources:
  requests: {cpu: 10m, memory: 16Mi}
  limits: {memory: 64Mi}
{{- end }}
{{- end }}

{{/* A container that runs one command and ends, in a Pod that is placed and equipped as the controller's: it reaches the
     database in the same way. Argument: [root, name, args, the database's key or ""] */}}
{{- define "rowlock.once" -}}
{{- $root := index . 0 -}}
{{- $c := $root.Values.controller -}}
{{ include "rowlock.container" (list $root (index . 1) $c) }}
args: {{ toJson (index . 2) }}
{{ include "rowlock.env" (list $root (include "rowlock.database" (list $root (index . 3) false) | fromYamlArray) list $c) }}
resources:
  {{- toYaml $root.Values.migrations.resources | nindent 2 }}
{{- include "rowlock.mounts" (list $root list $c) }}
{{- end }}

{{- define "rowlock.migrate" -}}
{{ include "rowlock.once" (list . "migrate" (list "migrate" "up") .Values.database.migrateKey) }}
{{- end }}
