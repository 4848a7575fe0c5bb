package rpc

import (
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
)

// forget drops what a request carries in fields that this program does not
// know, at any depth: it would otherwise be stored with the rest, unseen and
// of any size.
func forget(request any) {
	if m, ok := request.(proto.Message); ok && m != nil {
		forgetIn(m.ProtoReflect())
	}
}

func forgetIn(m protoreflect.Message) {
	if !m.IsValid() {
		return
	}
	if len(m.GetUnknown()) > 0 {
		m.SetUnknown(nil)
	}
	m.Range(func(f protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		switch {
		case f.Kind() != protoreflect.MessageKind && f.Kind() != protoreflect.GroupKind, f.IsMap():
		case f.IsList():
			for i := range v.List().Len() {
				forgetIn(v.List().Get(i).Message())
			}
		default:
			forgetIn(v.Message())
		}
		return true
	})
}
