{{- /* Written by `make generate` from the table in crds/src/kinds.rs. Change that, not this file. */}}

{{/* The definitions that the operator compares with its own. */}}
{{- define "tidemark.kinds.definitions" -}}
[wals.tidemark.dev, waltasks.tidemark.dev, walsinks.tidemark.dev]
{{- end -}}

{{/* What the operator may do with the objects of each kind. */}}
{{- define "tidemark.kinds.operatorRules" -}}
# Reads the WALs it serves; a patch sets and removes the purge finalizer.
- apiGroups: [tidemark.dev]
  resources: [wals]
  verbs: [get, list, watch, patch]
# Tells the state of each WAL.
- apiGroups: [tidemark.dev]
  resources: [wals/status]
  verbs: [patch]
# Makes a WAL the owner of its children, on clusters that check the right to block the owner's deletion.
- apiGroups: [tidemark.dev]
  resources: [wals/finalizers]
  verbs: [update]
# Runs the tasks that it is given, makes those that are due, and deletes those that ended long ago.
- apiGroups: [tidemark.dev]
  resources: [waltasks]
  verbs: [get, list, watch, create, delete]
# Tells the state of each WALTask.
- apiGroups: [tidemark.dev]
  resources: [waltasks/status]
  verbs: [patch]
# Makes a WALTask the owner of its children, on clusters that check the right to block the owner's deletion.
- apiGroups: [tidemark.dev]
  resources: [waltasks/finalizers]
  verbs: [update]
# Reads the sinks whose pods it runs.
- apiGroups: [tidemark.dev]
  resources: [walsinks]
  verbs: [get, list, watch]
# Tells the state of each WALSink.
- apiGroups: [tidemark.dev]
  resources: [walsinks/status]
  verbs: [patch]
# Makes a WALSink the owner of its children, on clusters that check the right to block the owner's deletion.
- apiGroups: [tidemark.dev]
  resources: [walsinks/finalizers]
  verbs: [update]
{{- end -}}

{{/* Rights of users who may view the objects of a namespace. */}}
{{- define "tidemark.kinds.viewRules" -}}
# Sees WALs and what became of them. A WAL holds names of Secrets, never their values.
- apiGroups: [tidemark.dev]
  resources: [wals]
  verbs: [get, list, watch]
# Reads the parts of a WAL that have an address of their own.
- apiGroups: [tidemark.dev]
  resources: [wals/status, wals/scale]
  verbs: [get]
# Sees WALTasks and what became of them. A WALTask holds names of Secrets, never their values.
- apiGroups: [tidemark.dev]
  resources: [waltasks]
  verbs: [get, list, watch]
# Reads the parts of a WALTask that have an address of their own.
- apiGroups: [tidemark.dev]
  resources: [waltasks/status]
  verbs: [get]
# Sees WALSinks and what became of them. A WALSink holds names of Secrets, never their values.
- apiGroups: [tidemark.dev]
  resources: [walsinks]
  verbs: [get, list, watch]
# Reads the parts of a WALSink that have an address of their own.
- apiGroups: [tidemark.dev]
  resources: [walsinks/status]
  verbs: [get]
{{- end -}}

{{/* Rights of users who may edit the objects of a namespace. */}}
{{- define "tidemark.kinds.editRules" -}}
# Makes, changes and deletes WALs.
- apiGroups: [tidemark.dev]
  resources: [wals]
  verbs: [create, update, patch, delete, deletecollection]
# Scales a WAL, as `kubectl scale` and an autoscaler do.
- apiGroups: [tidemark.dev]
  resources: [wals/scale]
  verbs: [update, patch]
# Makes, changes and deletes WALSinks.
- apiGroups: [tidemark.dev]
  resources: [walsinks]
  verbs: [create, update, patch, delete, deletecollection]
{{- end -}}

{{/* Further rights of users who administer a namespace. */}}
{{- define "tidemark.kinds.adminRules" -}}
# Makes, changes and deletes WALTasks.
- apiGroups: [tidemark.dev]
  resources: [waltasks]
  verbs: [create, update, patch, delete, deletecollection]
{{- end -}}
