{{/* What the binary asks the API server for, and nothing more. One place, so that it can be read. */}}
{{- define "rowlock.rules.controller" -}}
# What is scaled: found by its label, changed by its scale only.
- apiGroups: [apps]
  resources: [deployments]
  verbs: [list, watch]
- apiGroups: [apps]
  resources: [deployments/scale]
  verbs: [get, patch]
# Whether workers live; patch is for the deletion cost of those that may go.
- apiGroups: [""]
  resources: [pods]
  verbs: [list, watch, patch]
# The catalogue.
- apiGroups: [""]
  resources: [configmaps]
  verbs: [list, watch]
- apiGroups: [events.k8s.io]
  resources: [events]
  verbs: [create]
{{- end }}

{{- define "rowlock.rules.launcher" -}}
# A Pod per job: made, watched, its log's tail read, deleted.
- apiGroups: [""]
  resources: [pods]
  verbs: [get, list, watch, create, delete]
- apiGroups: [""]
  resources: [pods/log]
  verbs: [get]
# The payload, as a file of that Pod; it goes with the Pod that owns it.
- apiGroups: [""]
  resources: [secrets]
  verbs: [create]
# The owner of those Pods, by which they go with the release.
- apiGroups: [""]
  resources: [configmaps]
  resourceNames: [{{ include "rowlock.fullname" . }}-job-pods]
  verbs: [get]
{{- end }}
