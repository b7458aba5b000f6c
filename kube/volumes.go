package kube

import (
	"encoding/json"
	"maps"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"

	"github.com/plexus-cni/plexus/conf"
)

// slimVolumes keeps the volumes that volumesOf reads.
func slimVolumes(all []corev1.Volume) []corev1.Volume {
	return slices.DeleteFunc(slices.Clone(all), func(v corev1.Volume) bool {
		return v.HostPath == nil && v.EmptyDir == nil && v.Name != conf.SharedDir
	})
}

// slimMounts keeps the mounts that volumesOf reads: of volumes that the host can reach.
func slimMounts(all []corev1.VolumeMount, volumes []corev1.Volume) []corev1.VolumeMount {
	return slices.DeleteFunc(slices.Clone(all), func(m corev1.VolumeMount) bool {
		return !slices.ContainsFunc(volumes, func(v corev1.Volume) bool {
			return v.Name == m.Name && (v.HostPath != nil || v.Name == conf.SharedDir)
		})
	})
}

// addVolumes gives a pod its volumes, and where containers mount them.
func addVolumes(pod *conf.Pod, spec *corev1.PodSpec) {
	for _, v := range spec.Volumes {
		switch {
		case v.HostPath != nil:
			pod.Volumes = append(pod.Volumes, conf.Volume{Name: v.Name, HostPath: v.HostPath.Path})
		case v.EmptyDir != nil:
			pod.Volumes = append(pod.Volumes, conf.Volume{Name: v.Name})
		case v.Name == conf.SharedDir:
			pod.Volumes = append(pod.Volumes, conf.Volume{Name: v.Name, Kind: kindOf(v.VolumeSource)})
		}
	}
	var mounts []mount
	for _, containers := range [][]corev1.Container{spec.Containers, spec.InitContainers} {
		for _, c := range containers {
			for _, m := range c.VolumeMounts {
				mounts = append(mounts, mount{m.Name, m.MountPath, m.SubPath, m.SubPathExpr})
			}
		}
	}
	setMounts(pod, mounts)
}

// kindOf is the key of a volume's source, such as configMap.
func kindOf(source corev1.VolumeSource) string {
	var keys map[string]json.RawMessage
	text, _ := json.Marshal(source) // an API object can always be marshalled
	_ = json.Unmarshal(text, &keys) // and is an object then
	return strings.Join(slices.Sorted(maps.Keys(keys)), ", ")
}

// setMounts gives each volume the first of the mounts that shows the whole volume.
func setMounts(pod *conf.Pod, mounts []mount) {
	for i := range pod.Volumes {
		v := &pod.Volumes[i]
		at := slices.IndexFunc(mounts, func(m mount) bool { return m.Name == v.Name && m.SubPath == "" && m.SubPathExpr == "" })
		if at >= 0 {
			v.Mount = mounts[at].MountPath
		}
	}
}
