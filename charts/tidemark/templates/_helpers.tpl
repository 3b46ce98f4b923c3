{{- define "tidemark.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride -}}
{{- else if contains "tidemark" .Release.Name -}}
{{- .Release.Name | trunc 53 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-tidemark" .Release.Name | trunc 53 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{/* The name of the operator's own objects. */}}
{{- define "tidemark.operator" -}}
{{- printf "%s-operator" (include "tidemark.fullname" .) -}}
{{- end -}}

{{- define "tidemark.serviceAccount" -}}
{{- if .Values.serviceAccount.create -}}
{{- .Values.serviceAccount.name | default (include "tidemark.operator" .) -}}
{{- else -}}
{{- required "serviceAccount.name is required when serviceAccount.create is false: name the account that the operator shall run as" .Values.serviceAccount.name -}}
{{- end -}}
{{- end -}}

{{- define "tidemark.image" -}}
{{- if .Values.image.digest -}}
{{- printf "%s@%s" .Values.image.repository .Values.image.digest -}}
{{- else -}}
{{- printf "%s:%s" .Values.image.repository (.Values.image.tag | default .Chart.AppVersion) -}}
{{- end -}}
{{- end -}}

{{/* What selects the operator's pods: never changes in the life of a release. */}}
{{- define "tidemark.selector" -}}
app.kubernetes.io/name: tidemark-operator
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/component: operator
{{- end -}}

{{- define "tidemark.commonLabels" -}}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-" }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
app.kubernetes.io/part-of: tidemark
{{- end -}}

{{- define "tidemark.labels" -}}
{{ include "tidemark.selector" . }}
{{ include "tidemark.commonLabels" . }}
{{- end -}}

{{/* The `restricted` pod security level, for the pod and for its container. */}}
{{- define "tidemark.podSecurity" -}}
runAsNonRoot: true
runAsUser: 65532
runAsGroup: 65532
fsGroup: 65532
seccompProfile: {type: RuntimeDefault}
{{- end -}}

{{- define "tidemark.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
{{- end -}}

{{/* What the operator may do with the objects of one namespace: a ClusterRole's rules for the whole cluster, a Role's in a namespaced mode. */}}
{{- define "tidemark.rules" -}}
{{ include "tidemark.kinds.operatorRules" . }}
# Runs the indexer and the search of each WAL.
- apiGroups: [apps]
  resources: [deployments]
  verbs: [get, list, watch, create, patch, delete]
# Runs the tasks of each WAL.
- apiGroups: [batch]
  resources: [jobs]
  verbs: [get, list, watch, create, delete]
# Gives each WAL the Service of its search, one account a role (without any right), and the control file of its indexer.
- apiGroups: [""]
  resources: [services, serviceaccounts, configmaps]
  verbs: [get, list, watch, create, patch, delete]
# Keeps search available while nodes are drained.
- apiGroups: [policy]
  resources: [poddisruptionbudgets]
  verbs: [get, list, watch, create, patch, delete]
# Admits to the data pods only who is named.
- apiGroups: [networking.k8s.io]
  resources: [networkpolicies]
  verbs: [get, list, watch, create, patch, delete]
# Finds the data pods, to ask for their state and to say why one does not start.
- apiGroups: [""]
  resources: [pods]
  verbs: [get, list, watch]
# Tells the story of a WAL in its Events.
- apiGroups: [events.k8s.io]
  resources: [events]
  verbs: [create]
{{- end -}}
