package kube

import (
	"context"
	_ "embed"
	"fmt"
	"net"
	"net/http"
	"os"
	"strconv"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// nadCRD defines the kind NetworkAttachmentDefinition.
//
//go:embed nad.yaml
var nadCRD []byte

// Server is the URL of the API server.
func (c *Cluster) Server() string { return "https://" + c.address() }

// address is where the API server listens.
func (c *Cluster) address() string { return net.JoinHostPort(c.serverIP, strconv.Itoa(c.serverPort)) }

// startEtcd starts etcd; it is not waited for, as the API server does that.
func (c *Cluster) startEtcd() error {
	peers, err := freePort("127.0.0.1", c.etcdPort+1)
	if err != nil {
		return err
	}
	clients, peer := fmt.Sprintf("http://127.0.0.1:%d", c.etcdPort), fmt.Sprintf("http://127.0.0.1:%d", peers)
	c.etcd, err = c.start("etcd", nil,
		"--name=plexus",
		"--data-dir="+c.path("etcd"),
		"--listen-client-urls="+clients,
		"--advertise-client-urls="+clients,
		"--listen-peer-urls="+peer,
		"--initial-advertise-peer-urls="+peer,
		"--initial-cluster=plexus="+peer,
		"--unsafe-no-fsync",
		"--log-level=warn",
	)
	return err
}

// launchAPIServer starts the API server and does not wait for it.
func (c *Cluster) launchAPIServer() error {
	if err := os.WriteFile(c.path("audit.yaml"), auditPolicy, 0o644); err != nil {
		return fmt.Errorf("write the audit policy: %w", err)
	}
	pki := func(name string) string { return c.path("pki/" + name) }
	var err error
	c.apiserver, err = c.start("kube-apiserver", nil, append([]string{
		fmt.Sprintf("--etcd-servers=http://127.0.0.1:%d", c.etcdPort),
		"--bind-address=" + c.serverIP,
		"--advertise-address=" + c.serverIP,
		fmt.Sprintf("--secure-port=%d", c.serverPort),
		"--tls-cert-file=" + pki("apiserver.crt"),
		"--tls-private-key-file=" + pki("apiserver.key"),
		"--client-ca-file=" + pki("ca.crt"),
		"--cert-dir=" + c.path("run"),
		"--authorization-mode=Node,RBAC",
		"--enable-admission-plugins=NodeRestriction",
		"--disable-admission-plugins=TaintNodesByCondition", // a node is schedulable as soon as it is ready
		"--service-account-issuer=https://kubernetes.default.svc",
		"--service-account-key-file=" + pki("accounts.key"),
		"--service-account-signing-key-file=" + pki("accounts.key"),
		"--service-cluster-ip-range=" + serviceRange,
		"--endpoint-reconciler-type=none",
		"--allow-privileged=true",
		"--kubelet-client-certificate=" + pki("apiserver-kubelet.crt"),
		"--kubelet-client-key=" + pki("apiserver-kubelet.key"),
		"--kubelet-certificate-authority=" + pki("ca.crt"),
		"--kubelet-preferred-address-types=InternalIP",
		"--audit-policy-file=" + c.path("audit.yaml"),
		"--audit-log-path=" + c.auditLog(),
		"--audit-log-maxsize=1000", // MB: no rotation
		"--enable-priority-and-fairness=false",
		"--profiling=false",
	}, c.options.APIServer...)...)
	return err
}

// awaitAPIServer waits until the API server is ready.
func (c *Cluster) awaitAPIServer(ctx context.Context) error {
	return c.apiserver.await(ctx, "the API server is ready", func(ctx context.Context) (bool, error, error) {
		if err := c.etcd.Ended(); err != nil {
			return false, nil, err
		}
		_, err := c.client.Discovery().RESTClient().Get().AbsPath("/readyz").DoRaw(ctx)
		return err == nil, err, nil
	})
}

// StartAPIServer starts the API server again, with the data and the address that
// it had, and waits until it is ready.
func (c *Cluster) StartAPIServer(ctx context.Context) error {
	if c.apiserver != nil {
		return fmt.Errorf("the API server runs")
	}
	if err := c.launchAPIServer(); err != nil {
		return err
	}
	return c.awaitAPIServer(ctx)
}

// StopAPIServer kills the API server; etcd, and so its data, stays.
func (c *Cluster) StopAPIServer() {
	c.apiserver.kill()
	c.apiserver = nil
}

// addTypes makes the API server know NetworkAttachmentDefinitions.
func (c *Cluster) addTypes(ctx context.Context) error {
	api := c.client.Discovery().RESTClient()
	err := api.Post().AbsPath("/apis/apiextensions.k8s.io/v1/customresourcedefinitions").
		SetHeader("Content-Type", "application/yaml").Body(nadCRD).Do(ctx).Error()
	if err != nil {
		return fmt.Errorf("define NetworkAttachmentDefinitions: %w", err)
	}
	return poll(ctx, "NetworkAttachmentDefinitions are served", func(ctx context.Context) (bool, error, error) {
		var status int
		err := api.Get().AbsPath("/apis/k8s.cni.cncf.io/v1/network-attachment-definitions").Do(ctx).StatusCode(&status).Error()
		return status == http.StatusOK, err, nil
	})
}

// addAccount makes the service account that pods of the namespace default have,
// where no controller does.
func (c *Cluster) addAccount(ctx context.Context) error {
	return poll(ctx, "there is a default service account", func(ctx context.Context) (bool, error, error) {
		_, err := c.client.CoreV1().ServiceAccounts("default").Create(ctx,
			&corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: "default"}}, metav1.CreateOptions{})
		return err == nil || apierrors.IsAlreadyExists(err), err, nil
	})
}

// startControllers starts the scheduler and the controller manager.
func (c *Cluster) startControllers() error {
	identity := func(name string) []string {
		file := c.path(name + ".kubeconfig")
		return []string{"--kubeconfig=" + file, "--authentication-kubeconfig=" + file, "--authorization-kubeconfig=" + file,
			"--bind-address=127.0.0.1", "--secure-port=0", "--leader-elect=false"}
	}
	var err error
	if c.scheduler, err = c.start("kube-scheduler", nil, identity("kube-scheduler")...); err != nil {
		return err
	}
	c.controllers, err = c.start("kube-controller-manager", nil, append(identity("kube-controller-manager"),
		"--node-monitor-period=1s",
		"--use-service-account-credentials=true",
		"--kube-api-qps=1000", "--kube-api-burst=1000", // else its start takes four seconds
		"--service-account-private-key-file="+c.path("pki/accounts.key"),
		"--root-ca-file="+c.path("pki/ca.crt"),
		"--flex-volume-plugin-dir="+c.path("run/volumeplugins"),
	)...)
	return err
}
