{{/* What the binary asks the API server for, and nothing more. One place, so that it can be read. */}}
{{- define "rowlock.rules.controller" -}}
# What is scaled: found by its label, changed by its scale only.
- apiGroups: [apps]
  resources: [deployments]
  verbs: [get, list, watch]
- apiGroups: [apps]
  resources: [deployments/scale]
  verbs: [get, patch, update]
# Whether workers live; patch is for the deletion cost of those that may go; delete for Pods of jobs without a lease.
- apiGroups: [""]
  resources: [pods]
  verbs: [get, list, watch, patch, delete]
# The catalogue.
- apiGroups: [""]
  resources: [configmaps]
  verbs: [get, list, watch]
- apiGroups: [events.k8s.io]
  resources: [events]
  verbs: [create, patch]
{{- end }}

{{- define "rowlock.rules.launcher" -}}
# A Pod per job: made, watched, its log's tail read, deleted.
- apiGroups: [""]
  resources: [pods]
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [""]
  resources: [pods/log]
  verbs: [get]
# The payload, as a file of that Pod.
- apiGroups: [""]
  resources: [secrets]
  verbs: [create, delete]
- apiGroups: [events.k8s.io]
  resources: [events]
  verbs: [create, patch]
{{- end }}
