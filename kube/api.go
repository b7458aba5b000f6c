package kube

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	nadapi "github.com/k8snetworkplumbingwg/network-attachment-definition-client/pkg/apis/k8s.cni.cncf.io/v1"
	authenticationv1 "k8s.io/api/authentication/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
)

// API has clients of the API server for the few kinds that plexus uses: client-go's whole
// clientset would double the time that plexusd needs to start.
type API struct {
	Server string // URL
	scheme *runtime.Scheme

	core, authentication, authorization, resource, nads rest.Interface
}

// Limits of requests to the API server. Those of ADD add up to less than the
// timeout of a runtime.
const (
	requestTimeout = 5 * time.Second
	requestTries   = 3
	eventTimeout   = 2 * time.Second
)

// Connect makes the clients from a kubeconfig file, or for "" from the pod's service account.
// It sends no request.
func Connect(kubeconfig string) (a *API, err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("kubeconfig %s: %w", kubeconfig, err)
		}
	}()
	config, err := clientcmd.BuildConfigFromFlags("", kubeconfig)
	if kubeconfig == "" {
		config, err = rest.InClusterConfig()
	}
	if err != nil {
		return nil, err
	}
	config.QPS = -1 // no limit: all pods of a node may start at once
	config.UserAgent = "plexus"
	config.AcceptContentTypes = runtime.ContentTypeProtobuf + "," + runtime.ContentTypeJSON
	http, err := rest.HTTPClientFor(config)
	if err != nil {
		return nil, err
	}
	a = &API{Server: config.Host, scheme: runtime.NewScheme()}
	config.NegotiatedSerializer = serializer.NewCodecFactory(a.scheme).WithoutConversion()
	for _, c := range []struct {
		client *rest.Interface
		gv     schema.GroupVersion
		path   string
		add    func(*runtime.Scheme) error
	}{
		{&a.core, corev1.SchemeGroupVersion, "/api", corev1.AddToScheme},
		{&a.authentication, authenticationv1.SchemeGroupVersion, "/apis", authenticationv1.AddToScheme},
		{&a.authorization, authorizationv1.SchemeGroupVersion, "/apis", authorizationv1.AddToScheme},
		{&a.resource, resourcev1.SchemeGroupVersion, "/apis", resourcev1.AddToScheme},
		{&a.nads, nadapi.SchemeGroupVersion, "/apis", nadapi.AddToScheme},
	} {
		config.GroupVersion, config.APIPath = &c.gv, c.path
		if *c.client, err = rest.RESTClientForConfigAndClient(config, http); err == nil {
			err = c.add(a.scheme)
		}
		if err != nil {
			return nil, err
		}
	}
	return a, nil
}

// unreachableError is the error of an API server that does not answer, or fails for now.
type unreachableError struct {
	server string
	err    error
}

func (e *unreachableError) Error() string {
	return fmt.Sprintf("the API server %s does not answer as it should: %v", e.server, e.err)
}
func (e *unreachableError) Unwrap() error { return e.err }

// Temporary marks an error that may be gone when the runtime tries again.
func (e *unreachableError) Temporary() bool { return true }

// explain adds to a request's error what the operator can do; needs is the permission that
// the request requires.
func (a *API) explain(err error, needs string) error {
	switch {
	case err == nil:
		return nil
	case apierrors.IsUnauthorized(err):
		return fmt.Errorf("the API server %s does not know plexus' credentials (401): is the token of the kubeconfig still valid? %w", a.Server, err)
	case apierrors.IsForbidden(err):
		return fmt.Errorf("the API server %s forbids it (403): plexus' ClusterRole has to allow: %s: %w", a.Server, needs, err)
	case apierrors.IsNotFound(err), apierrors.IsInvalid(err), apierrors.IsBadRequest(err):
		return err
	}
	return &unreachableError{a.Server, err}
}

// retry repeats a request while its error is temporary, within a bound.
func (a *API) retry(ctx context.Context, needs string, request func(context.Context) error) error {
	for try := 1; ; try++ {
		bounded, cancel := context.WithTimeout(ctx, requestTimeout)
		err := a.explain(request(bounded), needs)
		cancel()
		var temporary *unreachableError
		if !errors.As(err, &temporary) || try == requestTries {
			return err
		}
		wait := time.Duration(try) * 250 * time.Millisecond
		if seconds, ok := apierrors.SuggestsClientDelay(err); ok {
			wait = min(time.Duration(seconds)*time.Second, requestTimeout)
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(wait):
		}
	}
}

// RefusedError says that a token may not read a path. After any other error of Allowed the API
// server has not decided.
type RefusedError struct{ Why string }

func (e *RefusedError) Error() string { return e.Why }

// Allowed asks for the user of a bearer token (TokenReview) and whether this user may
// read a path (SubjectAccessReview). nil is yes, a *RefusedError is no.
func (a *API) Allowed(ctx context.Context, token, path string) error {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	who := &authenticationv1.TokenReview{Spec: authenticationv1.TokenReviewSpec{Token: token}}
	err := a.authentication.Post().Resource("tokenreviews").Body(who).Do(ctx).Into(who)
	if err != nil {
		return a.explain(err, "create tokenreviews")
	}
	if !who.Status.Authenticated {
		return &RefusedError{"the token is not known to the API server"}
	}
	user := who.Status.User
	extra := map[string]authorizationv1.ExtraValue{} // of a service account's token: its pod and node, for one
	for key, values := range user.Extra {
		extra[key] = authorizationv1.ExtraValue(values)
	}
	may := &authorizationv1.SubjectAccessReview{Spec: authorizationv1.SubjectAccessReviewSpec{
		User: user.Username, UID: user.UID, Groups: user.Groups, Extra: extra,
		NonResourceAttributes: &authorizationv1.NonResourceAttributes{Path: path, Verb: "get"},
	}}
	if err := a.authorization.Post().Resource("subjectaccessreviews").Body(may).Do(ctx).Into(may); err != nil {
		return a.explain(err, "create subjectaccessreviews")
	}
	if !may.Status.Allowed {
		return &RefusedError{fmt.Sprintf("user %s may not get the non-resource URL %s", user.Username, path)}
	}
	return nil
}

// DaemonSet returns the status code of a GET of a DaemonSet, and whether it is being deleted.
func (a *API) DaemonSet(ctx context.Context, namespace, name string) (code int, deleting bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	answer := a.core.Get().AbsPath("/apis/apps/v1/namespaces", namespace, "daemonsets", name).Do(ctx)
	answer.StatusCode(&code)
	raw, err := answer.Raw()
	var found metav1.PartialObjectMetadata
	if err == nil {
		err = json.Unmarshal(raw, &found)
	}
	return code, found.DeletionTimestamp != nil, err
}
