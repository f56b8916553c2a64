{{/* Names. Cut so that what is put behind them fits into 63. */}}
{{- define "rowlock.name" -}}
{{ default .Chart.Name .Values.nameOverride | trunc 32 | trimSuffix "-" }}
{{- end }}

{{- define "rowlock.fullname" -}}
{{- if .Values.fullnameOverride }}
{{- .Values.fullnameOverride | trunc 32 | trimSuffix "-" }}
{{- else if contains (include "rowlock.name" .) .Release.Name }}
{{- .Release.Name | trunc 32 | trimSuffix "-" }}
{{- else }}
{{- printf "%s-%s" .Release.Name (include "rowlock.name" .) | trunc 32 | trimSuffix "-" }}
{{- end }}
{{- end }}

{{/* What never changes in the life of a release. A name may look like a number: toYaml quotes it then.
     Argument: [root, component] */}}
{{- define "rowlock.selector" -}}
{{- $root := index . 0 -}}
app.kubernetes.io/name: {{ include "rowlock.name" $root }}
app.kubernetes.io/instance: {{ toYaml $root.Release.Name }}
app.kubernetes.io/component: {{ index . 1 }}
{{- end }}

{{/* Labels of every object. Argument: [root, component] */}}
{{- define "rowlock.labels" -}}
{{- $root := index . 0 -}}
{{ include "rowlock.selector" . }}
app.kubernetes.io/part-of: rowlock
app.kubernetes.io/version: {{ $root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ $root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" $root.Chart.Name $root.Chart.Version | replace "+" "_" }}
{{- with $root.Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{/* The metadata of an object but its name's last part. Argument: [root, component, suffix, annotations, labels] */}}
{{- define "rowlock.metadata" -}}
{{- $root := index . 0 -}}
name: {{ include "rowlock.fullname" $root }}{{ index . 2 }}
namespace: {{ toYaml $root.Release.Namespace }}
labels:
  {{- include "rowlock.labels" (list $root (index . 1)) | nindent 2 }}
  {{- if gt (len .) 4 }}
  {{- with index . 4 }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
  {{- end }}
{{- $annotations := merge (dict) $root.Values.commonAnnotations }}
{{- if gt (len .) 3 }}{{ $annotations = merge (dict) (index . 3) $annotations }}{{ end }}
{{- with $annotations }}
annotations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{- define "rowlock.image" -}}
{{- with .Values.image -}}
{{- with .registry }}{{ trimSuffix "/" . }}/{{ end }}{{ .repository }}
{{- if .digest }}@{{ .digest }}{{ else }}:{{ default $.Chart.AppVersion .tag }}{{ end }}
{{- end }}
{{- end }}

{{/* The Secret with the database's URL, or what to do. */}}
{{- define "rowlock.secret" -}}
{{- if and .Values.demo.enabled .Values.database.existingSecret }}
{{- fail "database.existingSecret and demo.enabled exclude each other: the demo brings a database of its own" }}
{{- else if .Values.demo.enabled }}
{{- include "rowlock.fullname" . }}-demo-database
{{- else }}
{{- required "database.existingSecret is required: the name of a Secret whose key \"url\" holds postgres://…; make one with: kubectl create secret generic rowlock-database --from-literal=url=… (or try it with demo.enabled=true)" .Values.database.existingSecret }}
{{- end }}
{{- end }}

{{/* How rowlock is told of the database. Argument: [root, key or ""] */}}
{{- define "rowlock.database" -}}
{{- $root := index . 0 -}}
{{- $database := $root.Values.database -}}
- name: ROWLOCK_DATABASE_URL
  valueFrom:
    secretKeyRef:
      name: {{ include "rowlock.secret" $root }}
      key: {{ default $database.existingSecretKey (index . 1) }}
{{- end }}

{{/* The environment of a process that goes on for long. [::] serves IPv6 and IPv4, or IPv4 alone. Argument: [root, key, more env] */}}
{{- define "rowlock.env" -}}
{{- $root := index . 0 -}}
{{ include "rowlock.database" (list $root (index . 1)) }}
{{- with $root.Values.database.listenKey }}
- name: ROWLOCK_LISTEN_URL
  valueFrom:
    secretKeyRef:
      name: {{ include "rowlock.secret" $root }}
      key: {{ . }}
{{- end }}
- name: ROWLOCK_HTTP
  value: "[::]:9464"
- name: POD_NAME
  valueFrom: {fieldRef: {fieldPath: metadata.name}}
- name: POD_UID
  valueFrom: {fieldRef: {fieldPath: metadata.uid}}
{{- with concat $root.Values.extraEnv (default list (index . 2)) }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{/* The certificate by which the database is known, if one is given: where it is, and what it is made of. */}}
{{- define "rowlock.ca.mount" -}}
{{- if .Values.database.caSecret -}}
- {name: database-ca, mountPath: /etc/rowlock/tls, readOnly: true}
{{- end }}
{{- end }}
{{- define "rowlock.ca.volume" -}}
{{- with .Values.database.caSecret -}}
- name: database-ca
  secret:
    secretName: {{ . }}
    items: [{key: ca.crt, path: ca.crt}]
{{- end }}
{{- end }}
