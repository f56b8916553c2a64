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

{{/* Labels of every object, one value for a key: the selector's, then what is given, then the common ones.
     Argument: [root, component, more labels] */}}
{{- define "rowlock.labels" -}}
{{- $root := index . 0 -}}
{{- $more := dict }}
{{- if gt (len .) 2 }}{{ $more = default dict (index . 2) }}{{ end }}
{{- $standard := dict
  "app.kubernetes.io/part-of" "rowlock"
  "app.kubernetes.io/version" $root.Chart.AppVersion
  "app.kubernetes.io/managed-by" $root.Release.Service
  "helm.sh/chart" (printf "%s-%s" $root.Chart.Name $root.Chart.Version | replace "+" "_") }}
{{- toYaml (merge (include "rowlock.selector" . | fromYaml) $more $root.Values.commonLabels $standard) }}
{{- end }}

{{/* The metadata of an object. Argument: [root, component, name, annotations, labels] */}}
{{- define "rowlock.metadata.named" -}}
{{- $root := index . 0 -}}
name: {{ toYaml (index . 2) }}
namespace: {{ toYaml $root.Release.Namespace }}
labels:
  {{- include "rowlock.labels" (list $root (index . 1) (index . 4)) | nindent 2 }}
{{- with merge (deepCopy (default dict (index . 3))) $root.Values.commonAnnotations }}
annotations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{/* The same, by the last part of its name. Argument: [root, component, suffix, annotations, labels]; the last two may be missing. */}}
{{- define "rowlock.metadata" -}}
{{- $root := index . 0 -}}
{{- $all := concat . (list dict dict) -}}
{{- $annotations := index $all 3 }}
{{- $labels := index $all 4 }}
{{- include "rowlock.metadata.named" (list $root (index . 1) (printf "%s%s" (include "rowlock.fullname" $root) (index . 2)) $annotations $labels) }}
{{- end }}

{{/* Labels and annotations that are given must leave the chart's own alone: selectors go by them, and so do the controller,
     Helm and kubectl rowlock. */}}
{{- define "rowlock.check" -}}
{{- $places := dict "" .Values "controller." .Values.controller }}
{{- range $name, $worker := .Values.workers }}
{{- if $worker }}{{ $_ := set $places (printf "workers.%s." $name) $worker }}{{ end }}
{{- end }}
{{- range $place, $values := $places }}
{{- range $field := list "commonLabels" "labels" "podLabels" "commonAnnotations" "annotations" "podAnnotations" }}
{{- range $key, $_ := default dict (get $values $field) }}
{{- if hasPrefix "rowlock.dev/" $key }}
{{- fail (printf "%s%s: %s is for the chart to set, by other values: use a key of your own" $place $field $key) }}
{{- else if and (hasSuffix "abels" $field) (regexMatch "^app\\.kubernetes\\.io/(name|instance|component|part-of|managed-by)$" $key) }}
{{- fail (printf "%s%s: %s is the chart's own, because selectors go by it: use another label, or nameOverride" $place $field $key) }}
{{- end }}
{{- end }}
{{- end }}
{{- end }}
{{- end }}

{{/* Entries of a list, one for a key: of two the later one stays where it is, because it may refer to those before it.
     Argument: [key, list] */}}
{{- define "rowlock.unique" -}}
{{- $key := index . 0 }}
{{- $last := dict }}
{{- range $i, $entry := index . 1 }}{{ $_ := set $last (get $entry $key) $i }}{{ end }}
{{- $kept := list }}
{{- range $i, $entry := index . 1 }}
{{- if eq $i (get $last (get $entry $key)) }}{{ $kept = append $kept $entry }}{{ end }}
{{- end }}
{{- toYaml $kept }}
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

{{/* How rowlock is told of the database, as a list: by a variable, or by the name of a file that it reads again for each
     connection. Argument: [root, key or "", whether by a file] */}}
{{- define "rowlock.database" -}}
{{- $root := index . 0 -}}
{{- $database := $root.Values.database -}}
{{- if index . 2 -}}
- name: ROWLOCK_DATABASE_URL_FILE
  value: /etc/rowlock/database/url
{{- else -}}
- name: ROWLOCK_DATABASE_URL
  valueFrom:
    secretKeyRef:
      name: {{ include "rowlock.secret" $root }}
      key: {{ default $database.existingSecretKey (index . 1) }}
{{- end }}
{{- end }}

{{/* Where LISTEN connects, likewise. Argument: [root, whether by a file] */}}
{{- define "rowlock.listen" -}}
{{- $root := index . 0 -}}
{{- with $root.Values.database.listenKey -}}
{{- if index $ 1 -}}
- name: ROWLOCK_LISTEN_URL_FILE
  value: /etc/rowlock/database/listen
{{- else -}}
- name: ROWLOCK_LISTEN_URL
  valueFrom:
    secretKeyRef:
      name: {{ include "rowlock.secret" $root }}
      key: {{ . }}
{{- end }}
{{- end }}
{{- end }}

{{/* What is given goes before the chart's own. So the database that is given goes before both ways of naming one.
     Argument: [root, the chart's database, the chart's other env, the values of the container's component] */}}
{{- define "rowlock.env" -}}
{{- $root := index . 0 -}}
{{- $own := index . 1 }}
{{- $given := concat $root.Values.extraEnv (default list (index . 3).extraEnv) }}
{{- range $given }}
{{- if has .name (list "ROWLOCK_DATABASE_URL" "ROWLOCK_DATABASE_URL_FILE") }}{{ $own = list }}{{ end }}
{{- end -}}
env:
  {{- include "rowlock.unique" (list "name" (concat $own (index . 2) $given)) | nindent 2 }}
{{- with concat $root.Values.envFrom (default list (index . 3).envFrom) }}
envFrom:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{/* The same of a process that goes on for long. [::] serves IPv6 and IPv4, or IPv4 alone.
     Argument: [root, key or "", whether by a file, the component's values, more env of the chart] */}}
{{- define "rowlock.env.long" -}}
{{- $root := index . 0 -}}
{{- $own := include "rowlock.database" (list $root (index . 1) (index . 2)) | fromYamlArray }}
{{- $more := include "rowlock.env.process" (list $root (index . 2)) | fromYamlArray }}
{{- include "rowlock.env" (list $root $own (concat $more (index . 4)) (index . 3)) }}
{{- end }}
{{- define "rowlock.env.process" -}}
{{ include "rowlock.listen" . }}
- name: ROWLOCK_HTTP
  value: "[::]:9464"
- name: POD_NAME
  valueFrom: {fieldRef: {fieldPath: metadata.name}}
- name: POD_UID
  valueFrom: {fieldRef: {fieldPath: metadata.uid}}
{{- end }}

{{/* The file of rowlock.database: where it is, and what it is made of. Argument: [root, key or ""] */}}
{{- define "rowlock.database.mount" -}}
- {name: database, mountPath: /etc/rowlock/database, readOnly: true}
{{- end }}
{{- define "rowlock.database.volume" -}}
{{- $root := index . 0 -}}
- name: database
  secret:
    secretName: {{ include "rowlock.secret" $root }}
    items:
      - {key: {{ default $root.Values.database.existingSecretKey (index . 1) | toJson }}, path: url}
      {{- with $root.Values.database.listenKey }}
      - {key: {{ toJson . }}, path: listen}
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

{{/* volumeMounts of a container, volumes of a Pod: what is given goes before the chart's own of the same path or name.
     Argument: [root, the chart's own, the component's values] */}}
{{- define "rowlock.mounts" -}}
{{- $root := index . 0 -}}
{{- with concat (index . 1) (include "rowlock.ca.mount" $root | fromYamlArray) $root.Values.extraVolumeMounts (default list (index . 2).extraVolumeMounts) }}
volumeMounts:
  {{- include "rowlock.unique" (list "mountPath" .) | nindent 2 }}
{{- end }}
{{- end }}
{{- define "rowlock.volumes" -}}
{{- $root := index . 0 -}}
{{- with concat (index . 1) (include "rowlock.ca.volume" $root | fromYamlArray) $root.Values.extraVolumes (default list (index . 2).extraVolumes) }}
volumes:
  {{- include "rowlock.unique" (list "name" .) | nindent 2 }}
{{- end }}
{{- end }}

{{/* Whether a worker reads the database's URL from a file. By default only where it runs no job beside itself, because such a
     job could read the file, too. Argument: [root, the worker's values] */}}
{{- define "rowlock.worker.file" -}}
{{- $w := index . 1 }}
{{- $file := and (index . 0).Values.database.urlFile (eq (default list $w.launch | uniq | toJson) "[\"pod\"]") }}
{{- if not (kindIs "invalid" $w.urlFile) }}{{ $file = $w.urlFile }}{{ end }}
{{- if $file }}true{{ end }}
{{- end }}

{{/* Whether a worker makes Pods. */}}
{{- define "rowlock.launches" -}}
{{- range $name, $w := .Values.workers }}
{{- if $w }}{{ if has "pod" (default list $w.launch) }}true{{ end }}{{ end }}
{{- end }}
{{- end }}

{{/* Whether the chart makes a service account. Argument: [root, its values] */}}
{{- define "rowlock.creates" -}}
{{- $create := (index . 0).Values.serviceAccounts.create }}
{{- if not (kindIs "invalid" (index . 1).create) }}{{ $create = (index . 1).create }}{{ end }}
{{- if $create }}true{{ end }}
{{- end }}

{{/* The service account of a worker, as {name, create, annotations}; create is false for those that workers share.
     Argument: [root, name, values] */}}
{{- define "rowlock.worker.account" -}}
{{- $root := index . 0 -}}
{{- $full := include "rowlock.fullname" $root }}
{{- $w := index . 2 }}
{{- $of := default dict $w.serviceAccount }}
{{- $create := eq (include "rowlock.creates" (list $root $of)) "true" }}
{{- if and $of.annotations (not $create) }}
{{- fail (printf "workers.%s.serviceAccount.annotations: the chart makes no account for this worker; set its create, or annotate the account yourself" (index . 1)) }}
{{- end }}
{{- if $of.name }}
{{- toYaml (dict "name" $of.name "create" $create "annotations" (default dict $of.annotations)) }}
{{- else if $w.serviceAccountName }}
{{- toYaml (dict "name" $w.serviceAccountName "create" false) }}
{{- else if or $of.annotations $of.create }}
{{- toYaml (dict "name" (printf "%s-%s" $full (index . 1)) "create" true "annotations" (default dict $of.annotations)) }}
{{- else }}
{{- toYaml (dict "name" (printf "%s-%s" $full (ternary "launcher" "worker" (has "pod" (default list $w.launch)))) "create" false) }}
{{- end }}
{{- end }}
{{- define "rowlock.controller.account" -}}
{{- default (printf "%s-controller" (include "rowlock.fullname" .)) .Values.controller.serviceAccount.name }}
{{- end }}
