//! The whole cluster that other tests stand on: its pods run, its parts can be cut and stopped, and nothing stays.

use tidemark_tests::{Cluster, cluster::images};

/// Two pods of MinIO's image, as restricted as the product's own: any server would do.
const WEB: &str = "
apiVersion: v1
kind: Namespace
metadata: {name: NAMESPACE, labels: {pod-security.kubernetes.io/enforce: restricted}}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: web, namespace: NAMESPACE}
spec:
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      terminationGracePeriodSeconds: 1
      securityContext: {runAsNonRoot: true, runAsUser: 65532, runAsGroup: 65532, fsGroup: 65532, seccompProfile: {type: RuntimeDefault}}
      containers:
      - name: web
        image: minio/minio:RELEASE.2025-09-07T16-13-09Z
        args: [server, /data]
        env: [{name: HOME, value: /tmp}]
        readinessProbe: {httpGet: {path: /minio/health/ready, port: 9000}, periodSeconds: 1}
        securityContext: {allowPrivilegeEscalation: false, readOnlyRootFilesystem: true, capabilities: {drop: [ALL]}}
        volumeMounts: [{name: data, mountPath: /data}, {name: data, mountPath: /tmp}]
      volumes: [{name: data, emptyDir: {}}]
---
apiVersion: v1
kind: Service
metadata: {name: web, namespace: NAMESPACE}
spec: {selector: {app: web}, ports: [{port: 80, targetPort: 9000}]}
";

#[tokio::test]
#[ignore = "needs root and containerd: tests/tools/test.sh runs it"]
async fn a_restricted_pod_runs_and_answers_through_its_service() {
    let cluster =
        Cluster::builder().image(images::minio().await.expect("it is built")).start().await.expect("it starts");
    cluster.apply(&WEB.replace("NAMESPACE", "web")).await.expect("it is applied");
    let rolled = cluster.kubectl(["rollout", "status", "deployment/web", "-n", "web", "--timeout=120s"]).await;
    rolled.expect("its pod is ready");
    let url = cluster.service_url("web", "web", 80).await.expect("it has an address");
    let answer = reqwest::get(format!("{url}/minio/health/live")).await.expect("it answers");
    assert!(answer.status().is_success(), "{answer:?}");
}
