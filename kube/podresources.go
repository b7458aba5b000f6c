package kube

import (
	"cmp"
	"context"
	"fmt"
	"os"
	"slices"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	grpcstatus "google.golang.org/grpc/status"
	podresources "k8s.io/kubelet/pkg/apis/podresources/v1"

	"github.com/plexus-cni/plexus/conf"
)

// Bounds of a request to the kubelet.
const (
	devicesTimeout = 5 * time.Second
	maxAnswer      = 16 << 20 // bytes, as the kubelet's own clients have it
)

// listDevices requests the pod, or all pods where the kubelet has no Get.
func listDevices(ctx context.Context, socket string, pod *conf.Pod) (given map[string][]string, err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("the kubelet's podresources API at %s: %w", socket, err)
		}
	}()
	if _, err := os.Stat(socket); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, devicesTimeout)
	defer cancel()
	conn, err := grpc.NewClient("unix:"+socket, grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxAnswer)))
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	client := podresources.NewPodResourcesListerClient(conn)
	one, err := client.Get(ctx, &podresources.GetPodResourcesRequest{PodName: pod.Name, PodNamespace: pod.Namespace})
	if err == nil {
		return devicesOf(one.GetPodResources(), pod)
	}
	if code := grpcstatus.Code(err); code == codes.Unavailable || code == codes.DeadlineExceeded {
		return nil, err
	}
	all, err := client.List(ctx, &podresources.ListPodResourcesRequest{}) // Get is a feature that may be off
	if err != nil {
		return nil, err
	}
	for _, p := range all.GetPodResources() {
		if p.GetName() == pod.Name && p.GetNamespace() == pod.Namespace {
			return devicesOf(p, pod)
		}
	}
	return map[string][]string{}, nil
}

// devicesOf are the devices of the kubelet's answer, in the order of the pod's containers.
func devicesOf(p *podresources.PodResources, pod *conf.Pod) (map[string][]string, error) {
	containers := slices.Clone(p.GetContainers())
	slices.SortStableFunc(containers, func(a, b *podresources.ContainerResources) int {
		return cmp.Compare(place(pod, a.GetName()), place(pod, b.GetName()))
	})
	given := &deviceSet{}
	for _, c := range containers {
		for _, d := range c.GetDevices() {
			if err := given.add(d.GetResourceName(), d.GetDeviceIds()...); err != nil {
				return nil, err
			}
		}
	}
	return given.byResource(), nil
}
