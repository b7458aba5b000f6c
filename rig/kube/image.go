package kube

import (
	"archive/tar"
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path"
	"runtime"
	"slices"
	"strings"
)

// Images that every node has. The names are no registry's.
const (
	PauseImage   = "plexus.test/pause:1"
	BusyboxImage = "plexus.test/busybox:1" // with a link for each of its commands
)

// Image is what BuildImage makes an image of.
type Image struct {
	Ref        string            // a name with a tag that is not latest, so that it is not pulled
	Files      map[string]string // path in the image to path of an executable
	Links      map[string]string // path in the image to what the symbolic link holds
	Entrypoint []string
	Busybox    bool // with busybox and a link in /bin for each of its commands
}

// BuildImage writes an image of one layer to a tar file, in the layout of the OCI.
func (c *Cluster) BuildImage(ctx context.Context, file string, i Image) error {
	if i.Busybox {
		busybox, err := c.program("busybox")
		if err != nil {
			return err
		}
		commands, err := exec.CommandContext(ctx, busybox, "--list").Output()
		if err != nil {
			return fmt.Errorf("list busybox' commands: %w", err)
		}
		i.Files, i.Links = maps.Clone(i.Files), maps.Clone(i.Links)
		if i.Files == nil {
			i.Files = map[string]string{}
		}
		if i.Links == nil {
			i.Links = map[string]string{}
		}
		i.Files["/bin/busybox"] = busybox
		for _, name := range strings.Fields(string(commands)) {
			if _, ok := i.Files["/bin/"+name]; !ok {
				i.Links["/bin/"+name] = "busybox"
			}
		}
	}
	layer, err := i.layer()
	if err != nil {
		return fmt.Errorf("build image %s: %w", i.Ref, err)
	}
	if err := i.write(file, layer); err != nil {
		return fmt.Errorf("build image %s: %w", i.Ref, err)
	}
	return nil
}

// layer is the tar file of the image's files.
func (i *Image) layer() ([]byte, error) {
	var out bytes.Buffer
	w := tar.NewWriter(&out)
	made := map[string]bool{"/": true}
	var mkdir func(dir string) error
	mkdir = func(dir string) error {
		if made[dir] {
			return nil
		}
		if err := mkdir(path.Dir(dir)); err != nil {
			return err
		}
		made[dir] = true
		mode := int64(0o755)
		if dir == "/tmp" {
			mode = 0o1777
		}
		return w.WriteHeader(&tar.Header{Name: dir[1:] + "/", Typeflag: tar.TypeDir, Mode: mode})
	}
	for _, d := range []string{"/tmp", "/etc", "/proc", "/sys", "/dev", "/run", "/root"} {
		if err := mkdir(d); err != nil {
			return nil, err
		}
	}
	for _, name := range slices.Sorted(maps.Keys(i.Files)) {
		data, err := os.ReadFile(i.Files[name])
		if err != nil {
			return nil, err
		}
		name = path.Join("/", name)
		if err := mkdir(path.Dir(name)); err != nil {
			return nil, err
		}
		if err := put(w, name[1:], 0o755, data); err != nil {
			return nil, err
		}
	}
	for _, name := range slices.Sorted(maps.Keys(i.Links)) {
		to := i.Links[name]
		name = path.Join("/", name)
		if err := mkdir(path.Dir(name)); err != nil {
			return nil, err
		}
		if err := w.WriteHeader(&tar.Header{Name: name[1:], Typeflag: tar.TypeSymlink, Linkname: to, Mode: 0o777}); err != nil {
			return nil, err
		}
	}
	return out.Bytes(), w.Close()
}

func put(w *tar.Writer, name string, mode int64, data []byte) error {
	if err := w.WriteHeader(&tar.Header{Name: name, Typeflag: tar.TypeReg, Mode: mode, Size: int64(len(data))}); err != nil {
		return err
	}
	_, err := w.Write(data)
	return err
}

// write writes the image, which is its layer, with its descriptions.
func (i *Image) write(file string, layer []byte) error {
	type object map[string]any
	digest := func(b []byte) string { return fmt.Sprintf("sha256:%x", sha256.Sum256(b)) }
	blobs := [][]byte{layer}
	describe := func(kind string, b []byte) object {
		return object{"mediaType": "application/vnd.oci.image." + kind, "digest": digest(b), "size": len(b)}
	}
	var err error
	add := func(kind string, o object) object {
		b, errMarshal := json.Marshal(o)
		err = cmp.Or(err, errMarshal)
		blobs = append(blobs, b)
		return describe(kind, b)
	}
	config := add("config.v1+json", object{
		"architecture": runtime.GOARCH,
		"os":           "linux",
		"config":       object{"Entrypoint": i.Entrypoint, "Env": []string{"PATH=/bin:/sbin:/usr/bin:/usr/sbin"}},
		"rootfs":       object{"type": "layers", "diff_ids": []string{digest(layer)}},
	})
	manifest := add("manifest.v1+json", object{
		"schemaVersion": 2,
		"mediaType":     "application/vnd.oci.image.manifest.v1+json",
		"config":        config,
		"layers":        []object{describe("layer.v1.tar", layer)},
	})
	manifest["annotations"] = object{"io.containerd.image.name": i.Ref, "org.opencontainers.image.ref.name": i.Ref}
	index, errMarshal := json.Marshal(object{"schemaVersion": 2, "manifests": []object{manifest}})
	if err := cmp.Or(err, errMarshal); err != nil {
		return err
	}

	f, err := os.Create(file)
	if err != nil {
		return err
	}
	defer f.Close()
	w := tar.NewWriter(f)
	if err := put(w, "oci-layout", 0o644, []byte(`{"imageLayoutVersion":"1.0.0"}`)); err != nil {
		return err
	}
	if err := put(w, "index.json", 0o644, index); err != nil {
		return err
	}
	for _, b := range blobs {
		if err := put(w, "blobs/sha256/"+strings.TrimPrefix(digest(b), "sha256:"), 0o644, b); err != nil {
			return err
		}
	}
	if err := w.Close(); err != nil {
		return err
	}
	return f.Close()
}

// ImportImage lets the node have the image in a tar file.
func (c *Cluster) ImportImage(ctx context.Context, file string) error {
	f, err := os.Open(file)
	if err != nil {
		return fmt.Errorf("import an image: %w", err)
	}
	defer f.Close()
	argv := []string{"ctr", "-n", "k8s.io", "images", "import"}
	if c.localImport {
		argv = append(argv, "--local")
	}
	cmd := c.NodeCommand(ctx, append(argv, "-")...)
	cmd.Stdin = f // the node need not see the file
	if _, err := output(cmd); err != nil {
		return fmt.Errorf("import image %s: %w", file, err)
	}
	return nil
}

// importImages gives the node the images that it always has and those asked for.
func (c *Cluster) importImages(ctx context.Context) error {
	ctr, err := c.program("ctr")
	if err != nil {
		return err
	}
	// containerd 1.7 leaves out an image's name unless its client does the work.
	usage, _ := exec.CommandContext(ctx, ctr, "images", "import", "--help").Output()
	c.localImport = bytes.Contains(usage, []byte("--local"))

	pause, err := c.program("pause")
	if err != nil {
		return err
	}
	tars := []string{c.path("images/pause.tar"), c.path("images/busybox.tar")}
	for n, i := range []Image{
		{Ref: PauseImage, Files: map[string]string{"/pause": pause}, Entrypoint: []string{"/pause"}},
		{Ref: BusyboxImage, Busybox: true, Entrypoint: []string{"/bin/sh"}},
	} {
		if err := c.BuildImage(ctx, tars[n], i); err != nil {
			return err
		}
	}
	for _, t := range append(tars, c.options.Images...) {
		if err := c.ImportImage(ctx, t); err != nil {
			return err
		}
	}
	return nil
}
