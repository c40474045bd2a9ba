// Command provisioner gives the cluster's default StorageClass its volumes: one directory of the node for each claim.
// Static local volumes would do for one test run, but a released one is not usable again, and a cluster that others
// share for a day would run out of them.
package main

import (
	"context"
	"flag"
	"fmt"
	"log"
	"os"
	"path/filepath"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	genericapiserver "k8s.io/apiserver/pkg/server"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/client-go/util/workqueue"
)

const (
	selectedNode  = "volume.kubernetes.io/selected-node"
	provisionedBy = "pv.kubernetes.io/provisioned-by"
)

// provisioner turns every claim or volume into work by its key; what is to be done is read anew each time, so a
// repeated or lost event changes nothing.
type provisioner struct {
	name   string
	root   string
	client kubernetes.Interface
	shared informers.SharedInformerFactory
	queue  workqueue.TypedRateLimitingInterface[string]
}

func main() {
	kubeconfig := flag.String("kubeconfig", "", "how to reach the API server")
	root := flag.String("root", "", "the directory that holds the volumes")
	name := flag.String("name", "llmwarden.io/local-directory", "the provisioner's name in the StorageClass")
	flag.Parse()
	config, err := clientcmd.BuildConfigFromFlags("", *kubeconfig)
	if err != nil {
		log.Fatalf("provisioner: %v", err)
	}
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		log.Fatalf("provisioner: %v", err)
	}
	p := &provisioner{
		name:   *name,
		root:   *root,
		client: client,
		shared: informers.NewSharedInformerFactory(client, time.Minute),
		queue:  workqueue.NewTypedRateLimitingQueue(workqueue.DefaultTypedControllerRateLimiter[string]()),
	}
	p.run(genericapiserver.SetupSignalContext())
}

func (p *provisioner) run(ctx context.Context) {
	claims := p.shared.Core().V1().PersistentVolumeClaims().Informer()
	volumes := p.shared.Core().V1().PersistentVolumes().Informer()
	p.enqueue(claims, "claim ")
	p.enqueue(volumes, "volume ")
	p.shared.Start(ctx.Done())
	p.shared.WaitForCacheSync(ctx.Done())
	go func() { <-ctx.Done(); p.queue.ShutDown() }()
	for {
		key, quit := p.queue.Get()
		if quit {
			return
		}
		if err := p.handle(ctx, key); err != nil {
			log.Printf("%s: %v (will be tried again)", key, err)
			p.queue.AddRateLimited(key)
		} else {
			p.queue.Forget(key)
		}
		p.queue.Done(key)
	}
}

func (p *provisioner) enqueue(informer cache.SharedIndexInformer, kind string) {
	add := func(object any) {
		if key, err := cache.MetaNamespaceKeyFunc(object); err == nil {
			p.queue.Add(kind + key)
		}
	}
	_, err := informer.AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc:    add,
		UpdateFunc: func(_, object any) { add(object) },
	})
	if err != nil {
		log.Fatalf("provisioner: %v", err)
	}
}

func (p *provisioner) handle(ctx context.Context, key string) error {
	var kind, name string
	if _, err := fmt.Sscanf(key, "%s %s", &kind, &name); err != nil {
		return err
	}
	if kind == "volume" {
		return p.reclaim(ctx, name)
	}
	return p.provision(ctx, name)
}

func (p *provisioner) provision(ctx context.Context, key string) error {
	namespace, name, err := cache.SplitMetaNamespaceKey(key)
	if err != nil {
		return err
	}
	claim, err := p.shared.Core().V1().PersistentVolumeClaims().Lister().PersistentVolumeClaims(namespace).Get(name)
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return err
	}
	node := claim.Annotations[selectedNode]
	if claim.Spec.VolumeName != "" || claim.Spec.StorageClassName == nil || node == "" || claim.DeletionTimestamp != nil {
		return nil
	}
	class, err := p.client.StorageV1().StorageClasses().Get(ctx, *claim.Spec.StorageClassName, metav1.GetOptions{})
	if apierrors.IsNotFound(err) || (err == nil && class.Provisioner != p.name) {
		return nil
	}
	if err != nil {
		return err
	}
	volume := "pvc-" + string(claim.UID)
	path := filepath.Join(p.root, volume)
	// Any user may write, as with the usual local provisioners: hostPath volumes know no fsGroup.
	if err := os.MkdirAll(path, 0o777); err != nil {
		return err
	}
	if err := os.Chmod(path, 0o777); err != nil {
		return err
	}
	_, err = p.client.CoreV1().PersistentVolumes().Create(ctx, p.volume(volume, path, node, claim, class.ReclaimPolicy), metav1.CreateOptions{})
	if apierrors.IsAlreadyExists(err) {
		return nil
	}
	if err == nil {
		log.Printf("%s: made %s", key, path)
	}
	return err
}

func (p *provisioner) volume(
	name, path, node string, claim *corev1.PersistentVolumeClaim, policy *corev1.PersistentVolumeReclaimPolicy,
) *corev1.PersistentVolume {
	reclaim := corev1.PersistentVolumeReclaimDelete
	if policy != nil {
		reclaim = *policy
	}
	directory := corev1.HostPathDirectoryOrCreate
	return &corev1.PersistentVolume{
		ObjectMeta: metav1.ObjectMeta{Name: name, Annotations: map[string]string{provisionedBy: p.name}},
		Spec: corev1.PersistentVolumeSpec{
			AccessModes:                   claim.Spec.AccessModes,
			Capacity:                      corev1.ResourceList{corev1.ResourceStorage: claim.Spec.Resources.Requests[corev1.ResourceStorage]},
			PersistentVolumeReclaimPolicy: reclaim,
			StorageClassName:              *claim.Spec.StorageClassName,
			VolumeMode:                    claim.Spec.VolumeMode,
			PersistentVolumeSource: corev1.PersistentVolumeSource{
				HostPath: &corev1.HostPathVolumeSource{Path: path, Type: &directory},
			},
			ClaimRef: &corev1.ObjectReference{
				APIVersion: "v1", Kind: "PersistentVolumeClaim",
				Namespace: claim.Namespace, Name: claim.Name, UID: claim.UID,
			},
			NodeAffinity: &corev1.VolumeNodeAffinity{Required: &corev1.NodeSelector{
				NodeSelectorTerms: []corev1.NodeSelectorTerm{{MatchExpressions: []corev1.NodeSelectorRequirement{
					{Key: corev1.LabelHostname, Operator: corev1.NodeSelectorOpIn, Values: []string{node}},
				}}},
			}},
		},
	}
}

func (p *provisioner) reclaim(ctx context.Context, name string) error {
	volume, err := p.shared.Core().V1().PersistentVolumes().Lister().Get(name)
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return err
	}
	released := volume.Status.Phase == corev1.VolumeReleased || volume.Status.Phase == corev1.VolumeFailed
	ours := volume.Annotations[provisionedBy] == p.name
	if !ours || !released || volume.Spec.PersistentVolumeReclaimPolicy != corev1.PersistentVolumeReclaimDelete {
		return nil
	}
	// The path is made from the name, never read from the volume: a hand-made volume must not choose what is deleted.
	if err := os.RemoveAll(filepath.Join(p.root, filepath.Base(name))); err != nil {
		return err
	}
	err = p.client.CoreV1().PersistentVolumes().Delete(ctx, name, metav1.DeleteOptions{})
	if apierrors.IsNotFound(err) {
		return nil
	}
	return err
}
