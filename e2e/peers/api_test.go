package peers

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"

	nadapi "github.com/k8snetworkplumbingwg/network-attachment-definition-client/pkg/apis/k8s.cni.cncf.io/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer"

	"github.com/plexus-cni/plexus/conf"
)

// apiServer stands in for the API server: it has one pod at most, and NADs, and keeps the
// annotations that are written. The real one is in e2e/cluster.
type apiServer struct {
	server *httptest.Server
	codecs serializer.CodecFactory

	mu   sync.Mutex
	pod  *corev1.Pod
	said []string                                       // events, "REASON MESSAGE"
	nads map[string]*nadapi.NetworkAttachmentDefinition // by path
}

func newAPIServer() (*apiServer, error) {
	scheme := runtime.NewScheme()
	if err := corev1.AddToScheme(scheme); err != nil {
		return nil, err
	}
	a := &apiServer{codecs: serializer.NewCodecFactory(scheme), nads: map[string]*nadapi.NetworkAttachmentDefinition{}}
	a.server = httptest.NewServer(a)
	return a, nil
}

func (a *apiServer) addNAD(namespace, name string, annotations map[string]string, config string) {
	a.nads[fmt.Sprintf("/apis/k8s.cni.cncf.io/v1/namespaces/%s/network-attachment-definitions/%s", namespace, name)] = &nadapi.NetworkAttachmentDefinition{
		TypeMeta:   metav1.TypeMeta{APIVersion: "k8s.cni.cncf.io/v1", Kind: "NetworkAttachmentDefinition"},
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name, Annotations: annotations},
		Spec:       nadapi.NetworkAttachmentDefinitionSpec{Config: config},
	}
}

// status is the annotation network-status of the pod.
func (a *apiServer) status() string {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.pod == nil {
		return ""
	}
	return a.pod.Annotations[conf.NetworkStatusAnnotation]
}

// ServeHTTP is http.Handler.
func (a *apiServer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	a.mu.Lock()
	defer a.mu.Unlock()
	body, err := io.ReadAll(r.Body)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	path := strings.TrimSuffix(r.URL.Path, "/status")
	switch own := a.pod != nil && path == fmt.Sprintf("/api/v1/namespaces/%s/pods/%s", a.pod.Namespace, a.pod.Name); {
	case strings.HasSuffix(path, "/events"):
		sent := &corev1.Event{}
		if _, _, err := a.codecs.UniversalDeserializer().Decode(body, nil, sent); err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		a.said = append(a.said, sent.Reason+" "+sent.Message)
		answer(w, http.StatusCreated, &corev1.Event{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Event"}})
	case own && r.Method == http.MethodGet:
		answer(w, http.StatusOK, a.pod)
	case own:
		if err := a.write(body, r.Method); err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		answer(w, http.StatusOK, a.pod)
	case a.nads[path] != nil:
		answer(w, http.StatusOK, a.nads[path])
	default:
		name := path[strings.LastIndex(path, "/")+1:]
		kind := strings.TrimSuffix(path, "/"+name)
		kind = kind[strings.LastIndex(kind, "/")+1:]
		answer(w, http.StatusNotFound, &metav1.Status{
			TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Status"}, Status: metav1.StatusFailure, Code: http.StatusNotFound,
			Reason: metav1.StatusReasonNotFound, Message: fmt.Sprintf("%s %q not found", kind, name), Details: &metav1.StatusDetails{Name: name, Kind: kind},
		})
	}
}

// write sets the annotations of the pod: a patch, or the whole pod.
func (a *apiServer) write(body []byte, method string) error {
	sent := &corev1.Pod{}
	if method == http.MethodPatch {
		if err := json.Unmarshal(body, sent); err != nil {
			return err
		}
	} else if _, _, err := a.codecs.UniversalDeserializer().Decode(body, nil, sent); err != nil {
		return err
	}
	if a.pod.Annotations == nil {
		a.pod.Annotations = map[string]string{}
	}
	for key, value := range sent.Annotations {
		a.pod.Annotations[key] = value
	}
	return nil
}

func answer(w http.ResponseWriter, code int, o any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	_ = json.NewEncoder(w).Encode(o)
}
