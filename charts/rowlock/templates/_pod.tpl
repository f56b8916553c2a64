{{/* What all Pods have. Argument: [root, security context that goes before the common one] */}}
{{- define "rowlock.pod" -}}
{{- $root := index . 0 -}}
{{- with $root.Values.imagePullSecrets }}
imagePullSecrets:
  {{- toYaml . | nindent 2 }}
{{- end }}
enableServiceLinks: false
securityContext:
  {{- toYaml (merge (deepCopy (default dict (index . 1))) $root.Values.podSecurityContext) | nindent 2 }}
{{- end }}

{{/* Where a Pod may run. Argument: the controller's values, or a worker's. */}}
{{- define "rowlock.scheduling" -}}
{{- range $key := list "nodeSelector" "tolerations" "affinity" "priorityClassName" }}
{{- with get $ $key }}
{{ $key }}: {{ toYaml . | nindent 2 }}
{{- end }}
{{- end }}
{{- end }}

{{/* A container of the release's image, to its environment. Argument: [root, name] */}}
{{- define "rowlock.container" -}}
{{- $root := index . 0 -}}
name: {{ index . 1 }}
image: {{ include "rowlock.image" $root }}
imagePullPolicy: {{ $root.Values.image.pullPolicy }}
securityContext:
  {{- toYaml $root.Values.securityContext | nindent 2 }}
{{- end }}

{{/* Port and probes. Argument: the controller's values, or a worker's. */}}
{{- define "rowlock.probes" -}}
ports:
  - {name: http, containerPort: 9464}
livenessProbe:
  {{- toYaml (default (dict "httpGet" (dict "path" "/livez" "port" "http") "periodSeconds" 10 "timeoutSeconds" 5 "failureThreshold" 6) .livenessProbe) | nindent 2 }}
readinessProbe:
  {{- toYaml (default (dict "httpGet" (dict "path" "/readyz" "port" "http") "periodSeconds" 5 "timeoutSeconds" 5) .readinessProbe) | nindent 2 }}
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

{{- define "rowlock.migrate" -}}
{{ include "rowlock.container" (list . "migrate") }}
args: [migrate, up]
env:
  {{- include "rowlock.database" (list . .Values.database.migrateKey) | nindent 2 }}
  {{- with .Values.extraEnv }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
resources:
  {{- toYaml .Values.migrations.resources | nindent 2 }}
{{- with include "rowlock.ca.mount" . }}
volumeMounts:
  {{- . | nindent 2 }}
{{- end }}
{{- end }}
