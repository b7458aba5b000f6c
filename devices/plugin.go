package devices

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/fsnotify/fsnotify"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	grpcstatus "google.golang.org/grpc/status"
	deviceplugin "k8s.io/kubelet/pkg/apis/deviceplugin/v1beta1"
)

// plugin is the device plugin of one resource (k8s.io/kubelet/pkg/apis/deviceplugin/v1beta1).
type plugin struct {
	deviceplugin.UnimplementedDevicePluginServer
	resource *Resource
	places   *Places
	log      *slog.Logger

	mu        sync.Mutex
	functions map[string]Function // of a resource of PCI functions
	list      []*deviceplugin.Device
	changed   chan struct{} // is closed when list is another one
}

func newPlugin(r *Resource, functions []Function, places *Places, log *slog.Logger) *plugin {
	p := &plugin{resource: r, places: places, log: log, functions: map[string]Function{}, changed: make(chan struct{})}
	for _, f := range functions {
		p.functions[f.PCI] = f
		d := &deviceplugin.Device{ID: f.PCI, Health: deviceplugin.Healthy}
		if f.NUMA >= 0 && !r.ExcludeTopology {
			d.Topology = &deviceplugin.TopologyInfo{Nodes: []*deviceplugin.NUMANode{{ID: int64(f.NUMA)}}}
		}
		p.list = append(p.list, d)
	}
	if r.Socket != nil {
		for n := range r.Socket.Count {
			p.list = append(p.list, &deviceplugin.Device{ID: fmt.Sprint(n), Health: deviceplugin.Unhealthy}) // until the vswitch is seen
		}
	}
	return p
}

// restore makes again what a reboot has taken from allocated sockets.
func (p *plugin) restore() error {
	if p.resource.Socket == nil {
		return nil
	}
	var ids []string
	for _, d := range p.list {
		ids = append(ids, d.ID)
	}
	return p.places.restore(p.resource, ids)
}

// setHealth sets the health of the devices; bad is why one is not healthy, nil when it is. A
// change is logged once.
func (p *plugin) setHealth(bad func(id string) error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	var reasons []string
	list := make([]*deviceplugin.Device, len(p.list))
	differ, healthy := false, 0
	for i, d := range p.list {
		health := deviceplugin.Healthy
		if err := bad(d.ID); err != nil {
			health = deviceplugin.Unhealthy
			if !slices.Contains(reasons, err.Error()) {
				reasons = append(reasons, err.Error())
			}
		} else {
			healthy++
		}
		differ = differ || d.Health != health
		list[i] = &deviceplugin.Device{ID: d.ID, Health: health, Topology: d.Topology}
	}
	if !differ {
		return
	}
	p.list = list
	close(p.changed)
	p.changed = make(chan struct{})
	attrs := []any{"resource", p.resource.Name, "devices", len(list), "healthy", healthy}
	if len(reasons) > 0 {
		p.log.Warn("devices are not healthy", append(attrs, "why", reasons[:min(len(reasons), 3)])...)
	} else {
		p.log.Info("devices are healthy", attrs...)
	}
}

// GetDevicePluginOptions is deviceplugin.DevicePluginServer.
func (p *plugin) GetDevicePluginOptions(context.Context, *deviceplugin.Empty) (*deviceplugin.DevicePluginOptions, error) {
	return &deviceplugin.DevicePluginOptions{GetPreferredAllocationAvailable: len(p.functions) > 0}, nil
}

// ListAndWatch sends the list, and again at each change.
func (p *plugin) ListAndWatch(_ *deviceplugin.Empty, stream grpc.ServerStreamingServer[deviceplugin.ListAndWatchResponse]) error {
	for {
		p.mu.Lock()
		list, changed := p.list, p.changed
		p.mu.Unlock()
		if err := stream.Send(&deviceplugin.ListAndWatchResponse{Devices: list}); err != nil {
			return err
		}
		select {
		case <-stream.Context().Done():
			return nil
		case <-changed:
		}
	}
}

// Allocate answers for each container. The kubelet asks before it makes the pod's sandbox.
func (p *plugin) Allocate(_ context.Context, r *deviceplugin.AllocateRequest) (*deviceplugin.AllocateResponse, error) {
	answer := &deviceplugin.AllocateResponse{}
	for _, c := range r.GetContainerRequests() {
		one, err := p.allocate(c.GetDevicesIds())
		if err != nil {
			p.log.Error("devices cannot be allocated", "resource", p.resource.Name, "devices", c.GetDevicesIds(), "why", err.Error())
			return nil, grpcstatus.Error(codes.FailedPrecondition, fmt.Sprintf("resource %s: %v", p.resource.Name, err))
		}
		answer.ContainerResponses = append(answer.ContainerResponses, one)
	}
	return answer, nil
}

func (p *plugin) allocate(ids []string) (*deviceplugin.ContainerAllocateResponse, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	ids = slices.Sorted(slices.Values(ids)) // as networks get them
	var functions []Function
	for _, id := range ids {
		if !slices.ContainsFunc(p.list, func(d *deviceplugin.Device) bool { return d.ID == id }) {
			return nil, fmt.Errorf("it has no device %.60q", id)
		}
		functions = append(functions, p.functions[id])
	}
	if p.resource.Socket != nil {
		return p.places.allocateSockets(p.resource, ids)
	}
	return p.places.allocatePCI(p.resource, functions)
}

// GetPreferredAllocation prefers functions of one NUMA node, and there those of PFs that give
// the container few others: its frames share no wire.
func (p *plugin) GetPreferredAllocation(_ context.Context, r *deviceplugin.PreferredAllocationRequest) (*deviceplugin.PreferredAllocationResponse, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	answer := &deviceplugin.PreferredAllocationResponse{}
	for _, c := range r.GetContainerRequests() {
		answer.ContainerResponses = append(answer.ContainerResponses, &deviceplugin.ContainerPreferredAllocationResponse{
			DeviceIDs: prefer(p.functions, c.GetAvailableDeviceIDs(), c.GetMustIncludeDeviceIDs(), int(c.GetAllocationSize())),
		})
	}
	return answer, nil
}

func prefer(functions map[string]Function, available, must []string, size int) []string {
	chosen := slices.Clone(must)
	perPF, perNode, free := map[string]int{}, map[int]int{}, map[int]int{}
	for _, id := range available {
		free[functions[id].NUMA]++
	}
	for _, id := range must {
		perPF[functions[id].PF]++
		perNode[functions[id].NUMA]++
	}
	for len(chosen) < size {
		best := ""
		better := func(a, b Function) bool { // a than b
			if x, y := perNode[a.NUMA], perNode[b.NUMA]; x != y {
				return x > y
			}
			if x, y := free[a.NUMA], free[b.NUMA]; x != y {
				return x > y
			}
			if x, y := perPF[a.PF], perPF[b.PF]; x != y {
				return x < y
			}
			return a.PCI < b.PCI
		}
		for _, id := range available {
			if !slices.Contains(chosen, id) && (best == "" || better(functions[id], functions[best])) {
				best = id
			}
		}
		if best == "" {
			break
		}
		chosen = append(chosen, best)
		perPF[functions[best].PF]++
		perNode[functions[best].NUMA]++
	}
	return chosen
}

// socketName is the name of the plugin's socket in the kubelet's folder.
func (p *plugin) socketName() string {
	sum := sha256.Sum256([]byte(p.resource.Name))
	return "plexus-" + hex.EncodeToString(sum[:6]) + ".sock"
}

// Times of the registration with the kubelet.
const (
	registerTimeout = 10 * time.Second
	registerAgain   = 5 * time.Second
)

// Run serves the plugin until ctx is done. It registers whenever the kubelet has started: the
// kubelet then removes all sockets of its folder, and makes its own.
func (p *plugin) Run(ctx context.Context) error {
	for before := ""; ctx.Err() == nil; {
		err := p.serveOnce(ctx)
		if err == nil {
			before = ""
			continue
		}
		if ctx.Err() == nil {
			if err.Error() != before { // a kubelet may be away for long
				p.log.Warn("the device plugin is tried again", "resource", p.resource.Name, "why", err.Error())
			}
			before = err.Error()
			select {
			case <-ctx.Done():
			case <-time.After(registerAgain):
			}
		}
	}
	return nil
}

// serveOnce serves until the kubelet is another one.
func (p *plugin) serveOnce(ctx context.Context) error {
	watcher, err := fsnotify.NewWatcher()
	if err != nil {
		return err
	}
	defer watcher.Close()
	if err := watcher.Add(p.places.Plugins); err != nil {
		return fmt.Errorf("the kubelet's folder %s: %w", p.places.Plugins, err)
	}
	path := filepath.Join(p.places.Plugins, p.socketName())
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) { // of an agent that was killed
		return err
	}
	listener, err := net.Listen("unix", path)
	if err != nil {
		return err
	}
	server := grpc.NewServer()
	deviceplugin.RegisterDevicePluginServer(server, p)
	served := make(chan error, 1)
	go func() { served <- server.Serve(listener) }()
	defer func() {
		server.Stop() // which removes the socket
		<-served
	}()
	if err := p.register(ctx); err != nil {
		return err
	}
	p.log.Info("resource is offered", "resource", p.resource.Name)
	kubelet := filepath.Join(p.places.Plugins, filepath.Base(deviceplugin.KubeletSocket))
	for {
		select {
		case <-ctx.Done():
			return nil
		case err := <-served:
			served <- err
			return fmt.Errorf("its server has ended: %w", err)
		case err := <-watcher.Errors:
			return fmt.Errorf("watch %s: %w", p.places.Plugins, err)
		case e, ok := <-watcher.Events:
			if !ok || e.Name == kubelet && e.Has(fsnotify.Create) || e.Name == path && e.Has(fsnotify.Remove) {
				return nil
			}
		}
	}
}

func (p *plugin) register(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, registerTimeout)
	defer cancel()
	conn, err := grpc.NewClient("unix:"+filepath.Join(p.places.Plugins, filepath.Base(deviceplugin.KubeletSocket)), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return err
	}
	defer conn.Close()
	options, _ := p.GetDevicePluginOptions(ctx, nil)
	_, err = deviceplugin.NewRegistrationClient(conn).Register(ctx, &deviceplugin.RegisterRequest{
		Version: deviceplugin.Version, Endpoint: p.socketName(), ResourceName: p.resource.Name, Options: options,
	})
	if err != nil {
		return fmt.Errorf("register with the kubelet: %w", err)
	}
	return nil
}
