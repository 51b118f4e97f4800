// What the browser keeps: the token for as long as the tab is open, the theme for longer. Where it may keep nothing, the
// page remembers it until it is left.

const remembered = new Map();

function kept(storage, name) {
  return {
    get() {
      try {
        return storage().getItem(name);
      } catch {
        return remembered.get(name) ?? null;
      }
    },
    set(text) {
      remembered.set(name, text);
      try {
        storage().setItem(name, text);
      } catch {
        // remembered above
      }
    },
    forget() {
      remembered.delete(name);
      try {
        storage().removeItem(name);
      } catch {
        // there is nothing to remove
      }
    },
  };
}

export const token = kept(() => sessionStorage, "tq-token");
export const theme = kept(() => localStorage, "tq-theme");
