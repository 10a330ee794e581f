/** Imports one of the peers: a module in this folder finds what is installed in this folder. */
export const peer = (name) => import(name)
